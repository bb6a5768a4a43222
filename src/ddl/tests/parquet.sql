== hive
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/parquet/access/dt=*/hr=*/*: Parquet.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
-- Hive before 4.0 reads no timestamps of 64 bits: declare them as BIGINT there, or ask Spark or Trino.
-- Numbers with zeros in front are text: WHERE hr = '03'.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `_kafka_key` BINARY,
  `_kafka_headers` ARRAY<STRUCT<name: STRING, value: BINARY>>,
  `_kafka_timestamp` TIMESTAMP,
  `_kafka_offset` BIGINT,
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
PARTITIONED BY (`dt` DATE, `hr` STRING)
STORED AS PARQUET
LOCATION 's3a://logs/prod/parquet/access';

SET hive.msck.path.validation=ignore;
MSCK REPAIR TABLE `lake`.`access`;

== athena
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/parquet/access/dt=*/hr=*/*: Parquet.
-- dt: nothing before 2025-01-01 is seen; --since tells another day. Rows without any time lie in the year 1.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `_kafka_key` BINARY,
  `_kafka_headers` ARRAY<STRUCT<name: STRING, value: BINARY>>,
  `_kafka_timestamp` TIMESTAMP,
  `_kafka_offset` BIGINT,
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
PARTITIONED BY (`dt` STRING, `hr` INT)
STORED AS PARQUET
LOCATION 's3://logs/prod/parquet/access/'
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
  'storage.location.template' = 's3://logs/prod/parquet/access/dt=${dt}/hr=${hr}/'
);

== bigquery
-- lake.access: archive web, output parquet, topic access.
-- Reads gs://logs/prod/parquet/access/*.parquet: Parquet.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake.access` (
  `_kafka_key` BYTES,
  `_kafka_headers` ARRAY<STRUCT<`name` STRING, `value` BYTES>>,
  `_kafka_timestamp` TIMESTAMP,
  `_kafka_offset` INT64,
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
WITH PARTITION COLUMNS (`dt` DATE, `hr` INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = true,
  decimal_target_types = ['NUMERIC', 'BIGNUMERIC'],
  uris = ['gs://logs/prod/parquet/access/*.parquet'],
  hive_partition_uri_prefix = 'gs://logs/prod/parquet/access'
);

== spark
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/parquet/access/dt=*/hr=*/*: Parquet.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `_kafka_key` BINARY,
  `_kafka_headers` ARRAY<STRUCT<`name`: STRING, `value`: BINARY>>,
  `_kafka_timestamp` TIMESTAMP,
  `_kafka_offset` BIGINT,
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
  `dt` DATE,
  `hr` INT
)
USING parquet
PARTITIONED BY (`dt`, `hr`)
LOCATION 's3a://logs/prod/parquet/access';

MSCK REPAIR TABLE `lake`.`access`;

== duckdb
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/parquet/access/dt=*/hr=*/*.parquet: Parquet.
-- Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');
CREATE OR REPLACE VIEW "lake"."access" AS
SELECT * FROM read_parquet(
  's3://logs/prod/parquet/access/dt=*/hr=*/*.parquet',
  union_by_name = true,
  hive_partitioning = true,
  hive_types = {'dt': DATE, 'hr': INTEGER}
);

== clickhouse
-- lake.access: archive web, output parquet, topic access.
-- Reads s3://logs/prod/parquet/access/dt=*/hr=*/*.parquet: Parquet.
-- Without keys behind the URL the server's own credentials count.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `_kafka_key` Nullable(String),
  `_kafka_headers` Array(Tuple(`name` String, `value` Nullable(String))),
  `_kafka_timestamp` Nullable(DateTime64(3, 'UTC')),
  `_kafka_offset` Int64,
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
  `dt` Date32,
  `hr` Int32
)
ENGINE = S3('https://logs.s3.eu-central-1.amazonaws.com/prod/parquet/access/dt=*/hr=*/*.parquet', 'Parquet')
SETTINGS use_hive_partitioning = 1;

