== hive
-- lake.access: archive web, output envelope, topic access.
-- Reads s3://logs/prod/all/t=*/dt=*/kp=*/*: Parquet.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
-- Hive before 4.0 reads no timestamps of 64 bits: declare them as BIGINT there, or ask Spark or Trino.
-- Numbers with zeros in front are text: WHERE kp = '003'.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `topic` STRING,
  `partition` INT,
  `offset` BIGINT,
  `timestamp` TIMESTAMP,
  `key` BINARY,
  `value` BINARY,
  `headers` ARRAY<STRUCT<key: STRING, value: BINARY>>,
  `timestamp_beyond` BIGINT
)
PARTITIONED BY (`t` STRING, `dt` DATE, `kp` STRING)
STORED AS PARQUET
LOCATION 's3a://logs/prod/all';

SET hive.msck.path.validation=ignore;
MSCK REPAIR TABLE `lake`.`access`;

== athena
-- lake.access: archive web, output envelope, topic access.
-- Reads s3://logs/prod/all/t=*/dt=*/kp=*/*: Parquet.
-- dt: nothing before 2025-01-01 is seen; --since tells another day. Rows without any time lie in the year 1.
-- kp: nothing tells its values, so each query does: WHERE kp = '…', as it stands in the path.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `topic` STRING,
  `partition` INT,
  `offset` BIGINT,
  `timestamp` TIMESTAMP,
  `key` BINARY,
  `value` BINARY,
  `headers` ARRAY<STRUCT<key: STRING, value: BINARY>>,
  `timestamp_beyond` BIGINT
)
PARTITIONED BY (`t` STRING, `dt` STRING, `kp` STRING)
STORED AS PARQUET
LOCATION 's3://logs/prod/all/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.t.type' = 'enum',
  'projection.t.values' = 'access',
  'projection.dt.type' = 'date',
  'projection.dt.format' = 'yyyy-MM-dd',
  'projection.dt.range' = '2025-01-01,NOW+1DAYS',
  'projection.dt.interval' = '1',
  'projection.dt.interval.unit' = 'DAYS',
  'projection.kp.type' = 'injected',
  'storage.location.template' = 's3://logs/prod/all/t=${t}/dt=${dt}/kp=${kp}/'
);

== bigquery
-- lake.access: archive web, output envelope, topic access.
-- Reads gs://logs/prod/all/*.parquet: Parquet.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake.access` (
  `topic` STRING,
  `partition` INT64,
  `offset` INT64,
  `timestamp` TIMESTAMP,
  `key` BYTES,
  `value` BYTES,
  `headers` ARRAY<STRUCT<`key` STRING, `value` BYTES>>,
  `timestamp_beyond` INT64
)
WITH PARTITION COLUMNS (`t` STRING, `dt` DATE, `kp` INT64)
OPTIONS (
  format = 'PARQUET',
  enable_list_inference = true,
  uris = ['gs://logs/prod/all/*.parquet'],
  hive_partition_uri_prefix = 'gs://logs/prod/all'
);

== spark
-- lake.access: archive web, output envelope, topic access.
-- Reads s3://logs/prod/all/t=*/dt=*/kp=*/*: Parquet.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `topic` STRING,
  `partition` INT,
  `offset` BIGINT,
  `timestamp` TIMESTAMP,
  `key` BINARY,
  `value` BINARY,
  `headers` ARRAY<STRUCT<`key`: STRING, `value`: BINARY>>,
  `timestamp_beyond` BIGINT,
  `t` STRING,
  `dt` DATE,
  `kp` INT
)
USING parquet
PARTITIONED BY (`t`, `dt`, `kp`)
LOCATION 's3a://logs/prod/all';

MSCK REPAIR TABLE `lake`.`access`;

== duckdb
-- lake.access: archive web, output envelope, topic access.
-- Reads s3://logs/prod/all/t=*/dt=*/kp=*/*.parquet: Parquet.
-- Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');
CREATE OR REPLACE VIEW "lake"."access" AS
SELECT * FROM read_parquet(
  's3://logs/prod/all/t=*/dt=*/kp=*/*.parquet',
  union_by_name = true,
  hive_partitioning = true,
  hive_types = {'t': VARCHAR, 'dt': DATE, 'kp': INTEGER}
);

== clickhouse
-- lake.access: archive web, output envelope, topic access.
-- Reads s3://logs/prod/all/t=*/dt=*/kp=*/*.parquet: Parquet.
-- Without keys behind the URL the server's own credentials count.
-- Text in paths is shown as it stands there: decodeURLComponent undoes %XX.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `topic` String,
  `partition` Int32,
  `offset` Int64,
  `timestamp` Nullable(DateTime64(3, 'UTC')),
  `key` Nullable(String),
  `value` Nullable(String),
  `headers` Array(Tuple(`key` String, `value` Nullable(String))),
  `timestamp_beyond` Nullable(Int64),
  `t` String,
  `dt` Date32,
  `kp` Int32
)
ENGINE = S3('https://logs.s3.eu-central-1.amazonaws.com/prod/all/t=*/dt=*/kp=*/*.parquet', 'Parquet')
SETTINGS use_hive_partitioning = 1;

