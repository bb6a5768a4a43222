== hive
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/*: JSON lines.
-- A record without a payload is a line with null: tombstones = "drop" leaves it out.
-- Nothing tells the fields of these rows: they are one column of JSON text.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
-- get_json_object(line, '$.field') reads a field.
-- `siltstone compact --to parquet` puts Parquet into these folders, which this table would read as text: do without --to here.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `line` STRING
)
PARTITIONED BY (`dt` DATE)
ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.RegexSerDe'
WITH SERDEPROPERTIES ('input.regex' = '(?s)(.*)')
STORED AS TEXTFILE
LOCATION 's3a://logs/prod/json/access';

SET hive.msck.path.validation=ignore;
MSCK REPAIR TABLE `lake`.`access`;

== athena
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/*: JSON lines.
-- A record without a payload is a line with null: tombstones = "drop" leaves it out.
-- Nothing tells the fields of these rows: they are one column of JSON text.
-- json_extract_scalar(line, '$.field') reads a field.
-- `siltstone compact --to parquet` puts Parquet into these folders, which this table would read as text: do without --to here.
-- dt: nothing before 2025-01-01 is seen; --since tells another day. Rows without any time lie in the year 1.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `line` STRING
)
PARTITIONED BY (`dt` STRING)
ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.RegexSerDe'
WITH SERDEPROPERTIES ('input.regex' = '(?s)(.*)')
STORED AS TEXTFILE
LOCATION 's3://logs/prod/json/access/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.dt.type' = 'date',
  'projection.dt.format' = 'yyyy-MM-dd',
  'projection.dt.range' = '2025-01-01,NOW+1DAYS',
  'projection.dt.interval' = '1',
  'projection.dt.interval.unit' = 'DAYS',
  'storage.location.template' = 's3://logs/prod/json/access/dt=${dt}/'
);

== bigquery
-- lake.access: archive web, output json, topic access.
-- Reads gs://logs/prod/json/access/*.json.gz: JSON lines.
-- A record without a payload is a line with null: tombstones = "drop" leaves it out.
-- Nothing tells the fields of these rows: they are one column of JSON text.
-- Rows that `siltstone compact --to parquet` has made Parquet are not here any more.
-- Without columns BigQuery takes them from some rows of a file: name those that matter.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake.access`
WITH PARTITION COLUMNS (`dt` DATE)
OPTIONS (
  format = 'NEWLINE_DELIMITED_JSON',
  ignore_unknown_values = true,
  compression = 'GZIP',
  uris = ['gs://logs/prod/json/access/*.json.gz'],
  hive_partition_uri_prefix = 'gs://logs/prod/json/access'
);

== spark
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/*: JSON lines.
-- A record without a payload is a line with null: tombstones = "drop" leaves it out.
-- Nothing tells the fields of these rows: they are one column of JSON text.
-- get_json_object(line, '$.field') reads a field.
-- `siltstone compact --to parquet` puts Parquet into these folders, which this table would read as text: do without --to here.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `line` STRING,
  `dt` DATE
)
USING text
OPTIONS (lineSep '\n')
PARTITIONED BY (`dt`)
LOCATION 's3a://logs/prod/json/access';

MSCK REPAIR TABLE `lake`.`access`;

== duckdb
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/*.json.gz: JSON lines.
-- A record without a payload is a line with null: tombstones = "drop" leaves it out.
-- Nothing tells the fields of these rows: they are one column of JSON text.
-- Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');
-- Rows that `siltstone compact --to parquet` has made Parquet are not here any more.
CREATE OR REPLACE VIEW "lake"."access" AS
SELECT * FROM read_json(
  's3://logs/prod/json/access/dt=*/*.json.gz',
  format = 'newline_delimited',
  records = false,
  columns = {'json': 'JSON'},
  hive_partitioning = true,
  hive_types = {'dt': DATE}
);

== clickhouse
-- lake.access: archive web, output json, topic access.
-- Reads s3://logs/prod/json/access/dt=*/*.json.gz: JSON lines.
-- A record without a payload is a line with null: tombstones = "drop" leaves it out.
-- Nothing tells the fields of these rows: they are one column of JSON text.
-- JSONExtractString(line, 'field') reads a field.
-- Rows that `siltstone compact --to parquet` has made Parquet are not here any more.
-- Without keys behind the URL the server's own credentials count.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `line` String,
  `dt` Date32
)
ENGINE = S3('https://logs.s3.eu-central-1.amazonaws.com/prod/json/access/dt=*/*.json.gz', 'LineAsString', 'gzip')
SETTINGS use_hive_partitioning = 1;

