#!/usr/bin/env python3
"""The stores as their makers' own clients see them: list, read and delete below a URL. Shares no code with the archiver.

    $PYTHON tests/reader/stores.py list s3://bucket/prefix        size and key of each object
    $PYTHON tests/reader/stores.py delete s3://bucket/prefix      delete everything below the prefix

URLs: file:///folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix. Endpoints and keys come from what
`scripts/services.sh env` prints. Keys are relative to the URL.
"""

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit


def open_store(url):
    parts = urlsplit(url)
    kinds = {"file": FileStore, "s3": S3Store, "gs": GcsStore, "az": AzureStore}
    if parts.scheme not in kinds:
        raise ValueError(f"{url}: one of {', '.join(kinds)} is needed before ://")
    if parts.scheme == "file":
        return FileStore(unquote(parts.path))
    return kinds[parts.scheme](parts.netloc, parts.path.strip("/"))


class FileStore:
    def __init__(self, folder):
        self.folder = Path(folder)

    def list(self):
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                yield path.relative_to(self.folder).as_posix(), path.stat().st_size

    def read(self, key):
        return (self.folder / key).read_bytes()

    def unfinished(self):
        """Uploads in pieces that were begun and not ended, where the store knows of such."""
        return []

    def delete_all(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class PrefixStore:
    """What the three remote stores have in common: flat keys with a prefix."""

    def __init__(self, bucket, prefix):
        self.bucket, self.prefix = bucket, prefix + "/" if prefix else ""
        self.connect()

    def list(self):
        for key, size in self.list_full(self.prefix):
            yield key[len(self.prefix) :], size

    def read(self, key):
        return self.read_full(self.prefix + key)

    def unfinished(self):
        """Uploads in pieces that were begun and not ended, where the store knows of such."""
        return []

    def delete_all(self):
        if not self.prefix:
            raise ValueError("refusing to delete a whole bucket: name a prefix")
        for key, _ in list(self.list_full(self.prefix)):
            self.delete_full(key)
        for upload in self.unfinished():
            self.abort(upload)

    def abort(self, upload):
        raise NotImplementedError(f"{type(self).__name__} knows of no {upload}")


class S3Store(PrefixStore):
    def connect(self):
        import boto3
        from botocore.config import Config

        self.client = boto3.client(
            "s3", endpoint_url=os.environ.get("S3_ENDPOINT"), config=Config(s3={"addressing_style": "path"}),
            region_name=os.environ.get("AWS_REGION", "us-east-1"))

    def list_full(self, prefix):
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # a server over a directory lists its folders too
                    yield found["Key"], found["Size"]

    def unfinished(self):
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
        return [(found["Key"], found["UploadId"]) for page in pages for found in page.get("Uploads", ())]

    def abort(self, upload):
        key, number = upload
        self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=number)

    def read_full(self, key):
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def delete_full(self, key):
        self.client.delete_object(Bucket=self.bucket, Key=key)


class GcsStore(PrefixStore):
    def connect(self):
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        options = {}
        if "GCS_ENDPOINT" in os.environ:
            options = {"credentials": AnonymousCredentials(), "project": "test",
                       "client_options": {"api_endpoint": os.environ["GCS_ENDPOINT"]}}
        self.client = storage.Client(**options).bucket(self.bucket)

    def list_full(self, prefix):
        for blob in self.client.list_blobs(prefix=prefix):
            yield blob.name, blob.size

    def read_full(self, key):
        return self.client.blob(key).download_as_bytes(raw_download=True)

    def delete_full(self, key):
        self.client.blob(key).delete()


class AzureStore(PrefixStore):
    def connect(self):
        from azure.storage.blob import ContainerClient

        account = os.environ["AZURE_STORAGE_ACCOUNT_NAME"]
        endpoint = os.environ.get("AZURE_ENDPOINT", f"https://{account}.blob.core.windows.net")
        key = {"account_name": account, "account_key": os.environ["AZURE_STORAGE_ACCOUNT_KEY"]}
        self.client = ContainerClient(endpoint, self.bucket, credential=key)

    def list_full(self, prefix):
        for blob in self.client.list_blobs(name_starts_with=prefix):
            yield blob.name, blob.size

    def read_full(self, key):
        return self.client.download_blob(key).readall()

    def delete_full(self, key):
        self.client.delete_blob(key)


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("list", "delete"):
        sys.exit(__doc__)
    store = open_store(sys.argv[2])
    if sys.argv[1] == "delete":
        store.delete_all()
        return
    for key, size in store.list():
        print(f"{size:12} {key}")


if __name__ == "__main__":
    main()
