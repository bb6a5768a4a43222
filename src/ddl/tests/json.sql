== hive
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/hr=*/*: JSON lines.
-- Columns are those of the archive's schema; fields that it has not are passed over.
-- Times with a unit are numbers here; one that a payload has as text (RFC 3339) is null, or an error, as the engine likes.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
-- Needs Hive 4: the JsonSerDe of Hive 3 fails where a STRING column holds an object or a list, as extra can.
-- `siltstone compact --to parquet` puts Parquet into these folders, which this table would read as text: do without --to here.
-- Numbers with zeros in front are text: WHERE hr = '03'.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `_kafka_key` STRING,
  `_kafka_key_base64` BOOLEAN,
  `_kafka_headers` ARRAY<STRUCT<name: STRING, value: STRING, base64: BOOLEAN>>,
  `_kafka_timestamp` BIGINT COMMENT 'milliseconds since 1970, UTC',
  `id` BIGINT,
  `time` BIGINT COMMENT 'milliseconds since 1970, UTC',
  `seen` STRING COMMENT 'a time as the payload has it',
  `price` DECIMAL(12, 2),
  `big` DECIMAL(38, 18),
  `day` STRING,
  `ok` BOOLEAN,
  `ratio` DOUBLE,
  `body` STRING COMMENT 'base64',
  `extra` STRING,
  `order` STRING,
  `tags` ARRAY<STRING>,
  `request` STRUCT<path: STRING, at: STRING>,
  `labels` MAP<STRING, BIGINT>
)
PARTITIONED BY (`dt` DATE, `hr` STRING)
ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'
STORED AS TEXTFILE
LOCATION 's3a://logs/prod/json/access';

SET hive.msck.path.validation=ignore;
MSCK REPAIR TABLE `lake`.`access`;

== athena
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/hr=*/*: JSON lines.
-- Columns are those of the archive's schema; fields that it has not are passed over.
-- Times with a unit are numbers here; one that a payload has as text (RFC 3339) is null, or an error, as the engine likes.
-- `siltstone compact --to parquet` puts Parquet into these folders, which this table would read as text: do without --to here.
-- dt: nothing before 2025-01-01 is seen; --since tells another day. Rows without any time lie in the year 1.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `_kafka_key` STRING,
  `_kafka_key_base64` BOOLEAN,
  `_kafka_headers` ARRAY<STRUCT<name: STRING, value: STRING, base64: BOOLEAN>>,
  `_kafka_timestamp` BIGINT COMMENT 'milliseconds since 1970, UTC',
  `id` BIGINT,
  `time` BIGINT COMMENT 'milliseconds since 1970, UTC',
  `seen` STRING COMMENT 'a time as the payload has it',
  `price` DECIMAL(12, 2),
  `big` DECIMAL(38, 18),
  `day` STRING,
  `ok` BOOLEAN,
  `ratio` DOUBLE,
  `body` STRING COMMENT 'base64',
  `extra` STRING,
  `order` STRING,
  `tags` ARRAY<STRING>,
  `request` STRUCT<path: STRING, at: STRING>,
  `labels` MAP<STRING, BIGINT>
)
PARTITIONED BY (`dt` STRING, `hr` INT)
ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'
STORED AS TEXTFILE
LOCATION 's3://logs/prod/json/access/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.dt.type' = 'date',
  'projection.dt.format' = 'yyyy-MM-dd',
  'projection.dt.range' = '2025-01-01,NOW+1DAYS',
  'projection.dt.interval' = '1',
  'projection.dt.interval.unit' = 'DAYS',
  'projection.hr.type' = 'integer',
  'projection.hr.range' = '0,23',
  'projection.hr.digits' = '2',
  'storage.location.template' = 's3://logs/prod/json/access/dt=${dt}/hr=${hr}/'
);

== bigquery
-- lake.access: archive web, output json, topic access.
-- Reads gs://logs/prod/json/access/*.json.gz: JSON lines.
-- Columns are those of the archive's schema; fields that it has not are passed over.
-- Times with a unit are numbers here; one that a payload has as text (RFC 3339) is null, or an error, as the engine likes.
-- Rows that `siltstone compact --to parquet` has made Parquet are not here any more.
-- Lists are JSON: in JSON lines an array of BigQuery cannot be null.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake.access` (
  `_kafka_key` STRING,
  `_kafka_key_base64` BOOL,
  `_kafka_headers` JSON,
  `_kafka_timestamp` INT64 OPTIONS (description = 'milliseconds since 1970, UTC'),
  `id` INT64,
  `time` INT64 OPTIONS (description = 'milliseconds since 1970, UTC'),
  `seen` STRING OPTIONS (description = 'a time as the payload has it'),
  `price` NUMERIC,
  `big` BIGNUMERIC,
  `day` DATE,
  `ok` BOOL,
  `ratio` FLOAT64,
  `body` STRING OPTIONS (description = 'base64'),
  `extra` JSON,
  `order` STRING,
  `tags` JSON,
  `request` STRUCT<`path` STRING, `at` STRING>,
  `labels` JSON
)
WITH PARTITION COLUMNS (`dt` DATE, `hr` INT64)
OPTIONS (
  format = 'NEWLINE_DELIMITED_JSON',
  ignore_unknown_values = true,
  compression = 'GZIP',
  uris = ['gs://logs/prod/json/access/*.json.gz'],
  hive_partition_uri_prefix = 'gs://logs/prod/json/access'
);

== spark
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/hr=*/*: JSON lines.
-- Columns are those of the archive's schema; fields that it has not are passed over.
-- Times with a unit are numbers here; one that a payload has as text (RFC 3339) is null, or an error, as the engine likes.
-- `siltstone compact --to parquet` puts Parquet into these folders, which this table would read as text: do without --to here.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `_kafka_key` STRING,
  `_kafka_key_base64` BOOLEAN,
  `_kafka_headers` ARRAY<STRUCT<`name`: STRING, `value`: STRING, `base64`: BOOLEAN>>,
  `_kafka_timestamp` BIGINT COMMENT 'milliseconds since 1970, UTC',
  `id` BIGINT,
  `time` BIGINT COMMENT 'milliseconds since 1970, UTC',
  `seen` STRING COMMENT 'a time as the payload has it',
  `price` DECIMAL(12, 2),
  `big` DECIMAL(38, 18),
  `day` DATE,
  `ok` BOOLEAN,
  `ratio` DOUBLE,
  `body` STRING COMMENT 'base64',
  `extra` STRING,
  `order` STRING,
  `tags` ARRAY<STRING>,
  `request` STRUCT<`path`: STRING, `at`: STRING>,
  `labels` MAP<STRING, BIGINT>,
  `dt` DATE,
  `hr` INT
)
USING json
PARTITIONED BY (`dt`, `hr`)
LOCATION 's3a://logs/prod/json/access';

MSCK REPAIR TABLE `lake`.`access`;

== duckdb
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/hr=*/*.json.gz: JSON lines.
-- Columns are those of the archive's schema; fields that it has not are passed over.
-- Times with a unit are numbers here; one that a payload has as text (RFC 3339) is null, or an error, as the engine likes.
-- Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');
-- Rows that `siltstone compact --to parquet` has made Parquet are not here any more.
CREATE OR REPLACE VIEW "lake"."access" AS
SELECT * FROM read_json(
  's3://logs/prod/json/access/dt=*/hr=*/*.json.gz',
  format = 'newline_delimited',
  columns = {
    '_kafka_key': 'VARCHAR',
    '_kafka_key_base64': 'BOOLEAN',
    '_kafka_headers': 'STRUCT("name" VARCHAR, "value" VARCHAR, "base64" BOOLEAN)[]',
    '_kafka_timestamp': 'BIGINT',
    'id': 'BIGINT',
    'time': 'BIGINT',
    'seen': 'VARCHAR',
    'price': 'DECIMAL(12, 2)',
    'big': 'DECIMAL(38, 18)',
    'day': 'DATE',
    'ok': 'BOOLEAN',
    'ratio': 'DOUBLE',
    'body': 'VARCHAR',
    'extra': 'JSON',
    'order': 'VARCHAR',
    'tags': 'VARCHAR[]',
    'request': 'STRUCT("path" VARCHAR, "at" VARCHAR)',
    'labels': 'MAP(VARCHAR, BIGINT)'
  },
  hive_partitioning = true,
  hive_types = {'dt': DATE, 'hr': INTEGER}
);

== clickhouse
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/hr=*/*.json.gz: JSON lines.
-- Columns are those of the archive's schema; fields that it has not are passed over.
-- Times with a unit are numbers here; one that a payload has as text (RFC 3339) is null, or an error, as the engine likes.
-- Rows that `siltstone compact --to parquet` has made Parquet are not here any more.
-- Without keys behind the URL the server's own credentials count.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `_kafka_key` Nullable(String),
  `_kafka_key_base64` Nullable(Bool),
  `_kafka_headers` Array(Tuple(`name` Nullable(String), `value` Nullable(String), `base64` Nullable(Bool))),
  `_kafka_timestamp` Nullable(Int64) COMMENT 'milliseconds since 1970, UTC',
  `id` Nullable(Int64),
  `time` Nullable(Int64) COMMENT 'milliseconds since 1970, UTC',
  `seen` Nullable(String) COMMENT 'a time as the payload has it',
  `price` Nullable(Decimal(12, 2)),
  `big` Nullable(Decimal(38, 18)),
  `day` Nullable(Date32),
  `ok` Nullable(Bool),
  `ratio` Nullable(Float64),
  `body` Nullable(String) COMMENT 'base64',
  `extra` Nullable(String),
  `order` Nullable(String),
  `tags` Array(Nullable(String)),
  `request` Tuple(`path` Nullable(String), `at` Nullable(String)),
  `labels` Map(String, Nullable(Int64)),
  `dt` Date32,
  `hr` Int32
)
ENGINE = S3('https://logs.s3.eu-central-1.amazonaws.com/prod/json/access/dt=*/hr=*/*.json.gz', 'JSONEachRow', 'gzip')
SETTINGS use_hive_partitioning = 1;

