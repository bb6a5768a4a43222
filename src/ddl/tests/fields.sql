== hive
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/by/access/host=*/y=*/m=*/*: Parquet.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
-- Hive before 4.0 reads no timestamps of 64 bits: declare them as BIGINT there, or ask Spark or Trino.
-- Numbers with zeros in front are text: WHERE m = '03'.
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
PARTITIONED BY (`host` STRING, `y` INT, `m` STRING)
STORED AS PARQUET
LOCATION 's3a://logs/prod/by/access';

SET hive.msck.path.validation=ignore;
MSCK REPAIR TABLE `lake`.`access`;

== athena
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/by/access/host=*/y=*/m=*/*: Parquet.
-- host: nothing tells its values, so each query does: WHERE host = '…', as it stands in the path.
-- y: nothing before 2025 is seen; --since tells another day. Rows without any time lie in the year 1.
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
PARTITIONED BY (`host` STRING, `y` STRING, `m` INT)
STORED AS PARQUET
LOCATION 's3://logs/prod/by/access/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.host.type' = 'injected',
  'projection.y.type' = 'date',
  'projection.y.format' = 'yyyy',
  'projection.y.range' = '2025,NOW+1DAYS',
  'projection.y.interval' = '1',
  'projection.y.interval.unit' = 'YEARS',
  'projection.m.type' = 'integer',
  'projection.m.range' = '1,12',
  'projection.m.digits' = '2',
  'storage.location.template' = 's3://logs/prod/by/access/host=${host}/y=${y}/m=${m}/'
);

== bigquery
-- lake.access: archive web, output parquet, topic access.
-- Reads gs://logs/prod/by/access/*.parquet: Parquet.
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
WITH PARTITION COLUMNS (`host` STRING, `y` INT64, `m` INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = true,
  decimal_target_types = ['NUMERIC', 'BIGNUMERIC'],
  uris = ['gs://logs/prod/by/access/*.parquet'],
  hive_partition_uri_prefix = 'gs://logs/prod/by/access'
);

== spark
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/by/access/host=*/y=*/m=*/*: Parquet.
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
  `_rest` STRING,
  `host` STRING,
  `y` INT,
  `m` INT
)
USING parquet
PARTITIONED BY (`host`, `y`, `m`)
LOCATION 's3a://logs/prod/by/access';

MSCK REPAIR TABLE `lake`.`access`;

== duckdb
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/by/access/host=*/y=*/m=*/*.parquet: Parquet.
-- Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');
CREATE OR REPLACE VIEW "lake"."access" AS
SELECT * FROM read_parquet(
  's3://logs/prod/by/access/host=*/y=*/m=*/*.parquet',
  union_by_name = true,
  hive_partitioning = true,
  hive_types = {'host': VARCHAR, 'y': INTEGER, 'm': INTEGER}
);

== clickhouse
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/by/access/host=*/y=*/m=*/*.parquet: Parquet.
-- Without keys behind the URL the server's own credentials count.
-- Text in paths is shown as it stands there: decodeURLComponent undoes %XX.
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
  `_rest` Nullable(String),
  `host` String,
  `y` Int32,
  `m` Int32
)
ENGINE = S3('https://logs.s3.eu-central-1.amazonaws.com/prod/by/access/host=*/y=*/m=*/*.parquet', 'Parquet')
SETTINGS use_hive_partitioning = 1;

