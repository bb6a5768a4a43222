== hive
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/????/??/??/??/*: Parquet.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
-- Hive before 4.0 reads no timestamps of 64 bits: declare them as BIGINT there, or ask Spark or Trino.
-- Folders that are not name=value are found by nobody: add each partition, as below. (Athena can be told where they are.)
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `id` BIGINT,
  `time` TIMESTAMP,
  `seen` TIMESTAMP,
  `price` DECIMAL(12, 2),
  `big` DECIMAL(38, 18),
  `day` DATE,
  `ok` BOOLEAN,
  `ratio` DOUBLE,
  `body` BINARY,
  `extra` STRING,
  `order` STRING,
  `tags` ARRAY<STRING>,
  `request` STRUCT<path: STRING, at: TIMESTAMP>,
  `labels` MAP<STRING, BIGINT>,
  `_rest` STRING
)
PARTITIONED BY (`datehour` STRING)
STORED AS PARQUET
LOCATION 's3a://logs/prod';

-- ALTER TABLE `lake`.`access` ADD IF NOT EXISTS PARTITION (`datehour` = '2025/11/21/03')
--   LOCATION 's3a://logs/prod/2025/11/21/03';

== athena
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/????/??/??/??/*: Parquet.
-- datehour: nothing before 2025/01/01/00 is seen; --since tells another day. Rows without any time lie in the year 1.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `id` BIGINT,
  `time` TIMESTAMP,
  `seen` TIMESTAMP,
  `price` DECIMAL(12, 2),
  `big` DECIMAL(38, 18),
  `day` DATE,
  `ok` BOOLEAN,
  `ratio` DOUBLE,
  `body` BINARY,
  `extra` STRING,
  `order` STRING,
  `tags` ARRAY<STRING>,
  `request` STRUCT<path: STRING, at: TIMESTAMP>,
  `labels` MAP<STRING, BIGINT>,
  `_rest` STRING
)
PARTITIONED BY (`datehour` STRING)
STORED AS PARQUET
LOCATION 's3://logs/prod/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.datehour.type' = 'date',
  'projection.datehour.format' = 'yyyy/MM/dd/HH',
  'projection.datehour.range' = '2025/01/01/00,NOW+1DAYS',
  'projection.datehour.interval' = '1',
  'projection.datehour.interval.unit' = 'HOURS',
  'storage.location.template' = 's3://logs/prod/${datehour}/'
);

== bigquery
-- lake.access: archive web, output parquet, topic access.
-- Reads gs://logs/prod/2*.parquet: Parquet.
-- Years from 2000 on: rows of 1999 and before, and those without any time (year 1), are not seen.
-- Folders that are not name=value are no columns, and prune nothing: _FILE_NAME tells a row's object.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake.access` (
  `id` INT64,
  `time` TIMESTAMP,
  `seen` TIMESTAMP,
  `price` NUMERIC,
  `big` BIGNUMERIC,
  `day` DATE,
  `ok` BOOL,
  `ratio` FLOAT64,
  `body` BYTES,
  `extra` STRING,
  `order` STRING,
  `tags` ARRAY<STRING>,
  `request` STRUCT<`path` STRING, `at` TIMESTAMP>,
  `labels` STRUCT<key_value ARRAY<STRUCT<key STRING, value INT64>>>,
  `_rest` STRING
)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = true,
  decimal_target_types = ['NUMERIC', 'BIGNUMERIC'],
  uris = ['gs://logs/prod/2*.parquet']
);

== spark
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/**.parquet: Parquet.
-- Folders that are not name=value are no columns: _metadata.file_path tells a row's file.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `id` BIGINT,
  `time` TIMESTAMP,
  `seen` TIMESTAMP,
  `price` DECIMAL(12, 2),
  `big` DECIMAL(38, 18),
  `day` DATE,
  `ok` BOOLEAN,
  `ratio` DOUBLE,
  `body` BINARY,
  `extra` STRING,
  `order` STRING,
  `tags` ARRAY<STRING>,
  `request` STRUCT<`path`: STRING, `at`: TIMESTAMP>,
  `labels` MAP<STRING, BIGINT>,
  `_rest` STRING
)
USING parquet
OPTIONS (pathGlobFilter '*.parquet', recursiveFileLookup 'true')
LOCATION 's3a://logs/prod';

== duckdb
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]/[0-9][0-9]/*.parquet: Parquet.
-- Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');
-- Folders that are not name=value are no columns: filename tells a row's object.
CREATE OR REPLACE VIEW "lake"."access" AS
SELECT * FROM read_parquet(
  's3://logs/prod/[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]/[0-9][0-9]/*.parquet',
  union_by_name = true,
  hive_partitioning = false,
  filename = true
);

== clickhouse
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/????/??/??/??/*.parquet: Parquet.
-- Without keys behind the URL the server's own credentials count.
-- Folders that are not name=value are no columns: _path tells a row's object.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `id` Int64,
  `time` Nullable(DateTime64(6, 'UTC')),
  `seen` Nullable(DateTime64(6, 'UTC')),
  `price` Nullable(Decimal(12, 2)),
  `big` Nullable(Decimal(38, 18)),
  `day` Nullable(Date32),
  `ok` Nullable(Bool),
  `ratio` Nullable(Float64),
  `body` Nullable(String),
  `extra` Nullable(String),
  `order` Nullable(String),
  `tags` Array(Nullable(String)),
  `request` Tuple(`path` Nullable(String), `at` Nullable(DateTime64(6, 'UTC'))),
  `labels` Map(String, Nullable(Int64)),
  `_rest` Nullable(String)
)
ENGINE = S3('https://logs.s3.eu-central-1.amazonaws.com/prod/????/??/??/??/*.parquet', 'Parquet');

