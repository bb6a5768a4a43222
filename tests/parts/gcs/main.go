// fake-gcs-xml is fake-gcs-server with the writes of Google's XML API added: put an object
// (x-goog-if-generation-match, x-goog-meta-*), copy one, and multipart upload. Client libraries that write through the
// XML API, such as the Rust crate object_store, get "invalid uploadType" from fake-gcs-server 1.56.1 itself.
//
// Each write is turned into a call of the JSON API on the same handler in this process, so that preconditions and storage
// stay fake-gcs-server's own. Everything else (the whole JSON API; get, head, list, delete of the XML API) goes through
// untouched. Parts of an unfinished multipart upload are held in memory and are gone after a restart.
package main

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"log"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

// Google refuses smaller parts, all but the last.
const minPart = 5 << 20

type upload struct {
	bucket, key string
	header      http.Header
	parts       map[int][]byte
}

type gateway struct {
	inner   http.Handler
	host    string     // the one name that the XML API's reads are answered under
	mu      sync.Mutex // for uploads and the parts in them
	uploads map[string]*upload
}

func main() {
	port := flag.Int("port", 14443, "port to listen on, on 127.0.0.1")
	root := flag.String("root", "", "directory to keep the objects in; empty: in memory")
	buckets := flag.String("buckets", "", "buckets to make, separated by commas")
	flag.Parse()
	addr := fmt.Sprintf("127.0.0.1:%d", *port)
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{
		StorageRoot: *root,
		NoListener:  true,
		Scheme:      "http",
		ExternalURL: "http://" + addr,
		PublicHost:  addr,
	})
	if err != nil {
		log.Fatal(err)
	}
	for bucket := range strings.SplitSeq(*buckets, ",") {
		if bucket != "" {
			server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
		}
	}
	log.Fatal(http.ListenAndServe(addr, &gateway{inner: server.HTTPHandler(), host: addr, uploads: map[string]*upload{}}))
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Host = g.host // it may be reached through a proxy
	path := strings.TrimPrefix(r.URL.Path, "/")
	bucket, key, _ := strings.Cut(path, "/")
	query := r.URL.Query()
	if key == "" && r.Method == "GET" && query.Has("uploads") {
		g.listUploads(w, bucket, query.Get("prefix"))
		return
	}
	if key == "" || !isXMLWrite(r, path, query) {
		g.inner.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil { // the client went away: nothing is written
		return
	}
	switch {
	case query.Has("uploadId"):
		g.multipart(w, r, bucket, key, query, body)
	case r.Method == "POST" && query.Has("uploads"):
		g.beginUpload(w, r, bucket, key)
	case r.Method == "PUT" && r.Header.Get("x-goog-copy-source") != "":
		g.copy(w, r, bucket, key)
	case r.Method == "PUT":
		g.insert(w, bucket, key, r.Header, condition(r.Header), body)
	default:
		xmlError(w, 400, "InvalidArgument", "unsupported call of the XML API")
	}
}

func isXMLWrite(r *http.Request, path string, query url.Values) bool {
	for _, prefix := range []string{"storage/v1/", "upload/", "download/", "batch/", "_internal/"} {
		if strings.HasPrefix(path, prefix) {
			return false
		}
	}
	if query.Has("uploadType") || query.Has("X-Goog-Algorithm") {
		return false
	}
	return query.Has("uploadId") || r.Method == "PUT" || r.Method == "POST"
}

func condition(header http.Header) string {
	if v := header.Get("x-goog-if-generation-match"); v != "" {
		return "&ifGenerationMatch=" + url.QueryEscape(v)
	}
	return ""
}

func (g *gateway) call(method, target string, header http.Header, body []byte) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, bytes.NewReader(body))
	r.Header = header
	w := httptest.NewRecorder()
	g.inner.ServeHTTP(w, r)
	return w
}

// insert writes an object with a multipart call of the JSON API (the metadata, then the bytes) and answers in the words
// of the XML API. It reports whether the object was written; the status and body are then still open.
func (g *gateway) insert(w http.ResponseWriter, bucket, key string, header http.Header, condition string, data []byte) bool {
	if v := header.Get("Content-MD5"); v != "" {
		if sum := md5.Sum(data); base64.StdEncoding.EncodeToString(sum[:]) != v {
			xmlError(w, 400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
			return false
		}
	}
	contentType := header.Get("Content-Type")
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, _ := form.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json"}})
	_ = json.NewEncoder(part).Encode(metadata(key, header))
	part, _ = form.CreatePart(textproto.MIMEHeader{"Content-Type": {contentType}})
	_, _ = part.Write(data)
	_ = form.Close()
	target := "/upload/storage/v1/b/" + url.PathEscape(bucket) + "/o?uploadType=multipart&name=" + url.QueryEscape(key) + condition
	answer := g.call("POST", target, http.Header{"Content-Type": {"multipart/related; boundary=" + form.Boundary()}}, body.Bytes())
	return finish(w, answer)
}

func metadata(key string, header http.Header) map[string]any {
	meta := map[string]any{"name": key}
	for from, to := range map[string]string{
		"Content-Type":        "contentType",
		"Content-Encoding":    "contentEncoding",
		"Content-Disposition": "contentDisposition",
		"Content-Language":    "contentLanguage",
		"Cache-Control":       "cacheControl",
	} {
		if v := header.Get(from); v != "" {
			meta[to] = v
		}
	}
	custom := map[string]string{}
	for name := range header {
		if rest, ok := strings.CutPrefix(strings.ToLower(name), "x-goog-meta-"); ok {
			custom[rest] = header.Get(name)
		}
	}
	if len(custom) > 0 {
		meta["metadata"] = custom
	}
	return meta
}

func finish(w http.ResponseWriter, answer *httptest.ResponseRecorder) bool {
	switch {
	case answer.Code == http.StatusPreconditionFailed:
		xmlError(w, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
		return false
	case answer.Code == http.StatusNotFound:
		xmlError(w, 404, "NoSuchBucket", "The specified bucket does not exist.")
		return false
	case answer.Code >= 300:
		xmlError(w, answer.Code, "InternalError", answer.Body.String())
		return false
	}
	var object struct{ Etag, Md5Hash, Crc32c, Generation, Metageneration string }
	_ = json.Unmarshal(answer.Body.Bytes(), &object)
	etag := strings.Trim(object.Etag, `"`)
	if sum, err := base64.StdEncoding.DecodeString(object.Md5Hash); err == nil && len(sum) == md5.Size {
		etag = hex.EncodeToString(sum)
		w.Header().Add("x-goog-hash", "md5="+object.Md5Hash)
	}
	if object.Crc32c != "" {
		w.Header().Add("x-goog-hash", "crc32c="+object.Crc32c)
	}
	w.Header().Set("ETag", `"`+etag+`"`)
	w.Header().Set("x-goog-generation", object.Generation)
	w.Header().Set("x-goog-metageneration", object.Metageneration)
	return true
}

// copy reads the source and inserts it, since fake-gcs-server's own rewrite ignores preconditions.
func (g *gateway) copy(w http.ResponseWriter, r *http.Request, bucket, key string) {
	source, _ := url.PathUnescape(strings.TrimPrefix(r.Header.Get("x-goog-copy-source"), "/"))
	fromBucket, fromKey, _ := strings.Cut(source, "/")
	target := fmt.Sprintf("/storage/v1/b/%s/o/%s?alt=media", url.PathEscape(fromBucket), url.PathEscape(fromKey))
	// without the header, gzip objects would be unpacked on the way
	answer := g.call("GET", target, http.Header{"Accept-Encoding": {"gzip"}}, nil)
	if answer.Code != http.StatusOK {
		xmlError(w, 404, "NoSuchKey", "The specified key does not exist.")
		return
	}
	header := r.Header.Clone()
	for _, name := range []string{"Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control"} {
		header.Set(name, answer.Header().Get(name))
	}
	header.Del("Content-MD5")
	if g.insert(w, bucket, key, header, condition(r.Header), answer.Body.Bytes()) {
		xmlAnswer(w, struct {
			XMLName xml.Name `xml:"CopyObjectResult"`
			ETag    string
		}{ETag: w.Header().Get("ETag")})
	}
}

func (g *gateway) beginUpload(w http.ResponseWriter, r *http.Request, bucket, key string) {
	id := rand.Text()
	g.mu.Lock()
	g.uploads[id] = &upload{bucket, key, r.Header.Clone(), map[int][]byte{}}
	g.mu.Unlock()
	xmlAnswer(w, struct {
		XMLName               xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket, Key, UploadId string
	}{Bucket: bucket, Key: key, UploadId: id})
}

func (g *gateway) multipart(w http.ResponseWriter, r *http.Request, bucket, key string, query url.Values, body []byte) {
	id := query.Get("uploadId")
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.uploads[id]
	if u == nil || u.bucket != bucket || u.key != key {
		xmlError(w, 404, "NoSuchUpload", "The requested upload was not found.")
		return
	}
	switch r.Method {
	case "PUT":
		number, err := strconv.Atoi(query.Get("partNumber"))
		if err != nil || number < 1 || number > 10000 {
			xmlError(w, 400, "InvalidArgument", "partNumber")
			return
		}
		u.parts[number] = body
		w.Header().Set("ETag", `"`+md5Hex(body)+`"`)
	case "GET":
		listParts(w, id, u)
	case "DELETE":
		delete(g.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	case "POST":
		data, ok := assemble(w, u, body)
		if !ok || !g.insert(w, bucket, key, u.header, condition(r.Header), data) {
			return
		}
		delete(g.uploads, id)
		xmlAnswer(w, struct {
			XMLName           xml.Name `xml:"CompleteMultipartUploadResult"`
			Bucket, Key, ETag string
		}{Bucket: bucket, Key: key, ETag: w.Header().Get("ETag")})
	default:
		xmlError(w, 405, "MethodNotAllowed", r.Method)
	}
}

// assemble puts the parts together that the request to complete the upload names, and checks them as Google does.
func assemble(w http.ResponseWriter, u *upload, body []byte) ([]byte, bool) {
	var request struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &request); err != nil || len(request.Part) == 0 {
		xmlError(w, 400, "MalformedXML", "bad CompleteMultipartUpload")
		return nil, false
	}
	var data []byte
	for i, part := range request.Part {
		if i > 0 && part.PartNumber <= request.Part[i-1].PartNumber {
			xmlError(w, 400, "InvalidPartOrder", "the parts are not in ascending order")
			return nil, false
		}
		bytes, ok := u.parts[part.PartNumber]
		if !ok || strings.Trim(part.ETag, `"`) != md5Hex(bytes) {
			xmlError(w, 400, "InvalidPart", "a part was not found or has another ETag")
			return nil, false
		}
		if i < len(request.Part)-1 && len(bytes) < minPart {
			xmlError(w, 400, "EntityTooSmall", "a part but the last is below 5 MiB")
			return nil, false
		}
		data = append(data, bytes...)
	}
	return data, true
}

// listUploads tells the uploads that are neither completed nor aborted, as GET /bucket?uploads does. In one page.
func (g *gateway) listUploads(w http.ResponseWriter, bucket, prefix string) {
	type open struct {
		Key, UploadId string
	}
	var found []open
	g.mu.Lock()
	for id, u := range g.uploads {
		if u.bucket == bucket && strings.HasPrefix(u.key, prefix) {
			found = append(found, open{u.key, id})
		}
	}
	g.mu.Unlock()
	slices.SortFunc(found, func(a, b open) int { return strings.Compare(a.Key+a.UploadId, b.Key+b.UploadId) })
	xmlAnswer(w, struct {
		XMLName     xml.Name `xml:"ListMultipartUploadsResult"`
		Bucket      string
		Prefix      string
		IsTruncated bool
		Upload      []open
	}{Bucket: bucket, Prefix: prefix, Upload: found})
}

func listParts(w http.ResponseWriter, id string, u *upload) {
	type part struct {
		PartNumber int
		ETag       string
		Size       int
	}
	var parts []part
	for number, data := range u.parts {
		parts = append(parts, part{number, `"` + md5Hex(data) + `"`, len(data)})
	}
	slices.SortFunc(parts, func(a, b part) int { return a.PartNumber - b.PartNumber })
	xmlAnswer(w, struct {
		XMLName               xml.Name `xml:"ListPartsResult"`
		Bucket, Key, UploadId string
		Part                  []part
	}{Bucket: u.bucket, Key: u.key, UploadId: id, Part: parts})
}

func md5Hex(data []byte) string {
	sum := md5.Sum(data)
	return hex.EncodeToString(sum[:])
}

func xmlError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	w.WriteHeader(status)
	writeXML(w, struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: code, Message: message})
}

func xmlAnswer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	writeXML(w, v)
}

func writeXML(w io.Writer, v any) {
	body, _ := xml.Marshal(v)
	_, _ = io.WriteString(w, xml.Header)
	_, _ = w.Write(body)
}
