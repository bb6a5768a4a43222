== hive
-- lake.access: archive web, output avro, topic access.
-- Reads s3://logs/prod/avro/access/dt=*/*: Avro.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `user_agent` STRING,
  `it_s` BIGINT,
  `price` DECIMAL(12, 2),
  `_rest` STRING
)
PARTITIONED BY (`dt` DATE)
STORED AS AVRO
LOCATION 's3a://logs/prod/avro/access'
TBLPROPERTIES ('avro.schema.literal' = '{"fields":[{"default":null,"doc":"user-agent","name":"user_agent","type":["null","string"]},{"default":null,"doc":"it\'s","name":"it_s","type":["null",{"logicalType":"timestamp-micros","type":"long"}]},{"default":null,"name":"price","type":["null",{"logicalType":"decimal","precision":12,"scale":2,"type":"bytes"}]},{"default":null,"name":"_rest","type":["null","string"]}],"name":"row","namespace":"siltstone","type":"record"}');

SET hive.msck.path.validation=ignore;
MSCK REPAIR TABLE `lake`.`access`;

== athena
-- lake.access: archive web, output avro, topic access.
-- Reads s3://logs/prod/avro/access/dt=*/*: Avro.
-- dt: nothing before 2025-01-01 is seen; --since tells another day. Rows without any time lie in the year 1.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `user_agent` STRING,
  `it_s` BIGINT,
  `price` DECIMAL(12, 2),
  `_rest` STRING
)
PARTITIONED BY (`dt` STRING)
ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.avro.AvroSerDe'
WITH SERDEPROPERTIES ('avro.schema.literal' = '{"fields":[{"default":null,"doc":"user-agent","name":"user_agent","type":["null","string"]},{"default":null,"doc":"it\'s","name":"it_s","type":["null",{"logicalType":"timestamp-micros","type":"long"}]},{"default":null,"name":"price","type":["null",{"logicalType":"decimal","precision":12,"scale":2,"type":"bytes"}]},{"default":null,"name":"_rest","type":["null","string"]}],"name":"row","namespace":"siltstone","type":"record"}')
STORED AS AVRO
LOCATION 's3://logs/prod/avro/access/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.dt.type' = 'date',
  'projection.dt.format' = 'yyyy-MM-dd',
  'projection.dt.range' = '2025-01-01,NOW+1DAYS',
  'projection.dt.interval' = '1',
  'projection.dt.interval.unit' = 'DAYS',
  'storage.location.template' = 's3://logs/prod/avro/access/dt=${dt}/'
);

== bigquery
-- lake.access: archive web, output avro, topic access.
-- Reads gs://logs/prod/avro/access/*.avro: Avro.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake.access` (
  `user_agent` STRING,
  `it_s` TIMESTAMP,
  `price` NUMERIC,
  `_rest` STRING
)
WITH PARTITION COLUMNS (`dt` DATE)
OPTIONS (
  format = 'AVRO',
  enable_logical_types = true,
  uris = ['gs://logs/prod/avro/access/*.avro'],
  hive_partition_uri_prefix = 'gs://logs/prod/avro/access'
);

== spark
-- lake.access: archive web, output avro, topic access.
-- Reads s3://logs/prod/avro/access/dt=*/*: Avro.
-- Needs the package org.apache.spark:spark-avro_2.13 of Spark's own version (--packages).
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `user_agent` STRING,
  `it_s` TIMESTAMP,
  `price` DECIMAL(12, 2),
  `_rest` STRING,
  `dt` DATE
)
USING avro
PARTITIONED BY (`dt`)
LOCATION 's3a://logs/prod/avro/access';

MSCK REPAIR TABLE `lake`.`access`;

== duckdb
-- lake.access: archive web, output avro, topic access.
-- Reads s3://logs/prod/avro/access/dt=*/*.avro: Avro.
-- Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');
-- INSTALL avro; LOAD avro; comes first.
-- The avro extension (1.4) knows no logical types: instants are microseconds since 1970 (make_timestamp; Kafka's own milliseconds), days are counted from 1970, decimals are bytes. Parquet has them as they are.
CREATE OR REPLACE VIEW "lake"."access" AS
SELECT * FROM read_avro(
  's3://logs/prod/avro/access/dt=*/*.avro',
  hive_partitioning = true,
  hive_types = {'dt': DATE}
);

== clickhouse
-- lake.access: archive web, output avro, topic access.
-- Reads s3://logs/prod/avro/access/dt=*/*.avro: Avro.
-- Without keys behind the URL the server's own credentials count.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `user_agent` Nullable(String),
  `it_s` Nullable(DateTime64(6, 'UTC')),
  `price` Nullable(Decimal(12, 2)),
  `_rest` Nullable(String),
  `dt` Date32
)
ENGINE = S3('https://logs.s3.eu-central-1.amazonaws.com/prod/avro/access/dt=*/*.avro', 'Avro')
SETTINGS use_hive_partitioning = 1;

