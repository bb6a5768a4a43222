== hive
-- lake.access: archive web, output raw, topic access.
-- Reads s3://logs/prod/raw/access/dt=*/*: lines.
-- newlines = "escape": \\ stands for a backslash and \n for a newline in each line.
-- Payloads that are not UTF-8 are shown as the engine likes, or refused by it.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
-- A payload with a carriage return inside is several rows: the engine ends lines there as well.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `line` STRING
)
PARTITIONED BY (`dt` DATE)
ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.RegexSerDe'
WITH SERDEPROPERTIES ('input.regex' = '(?s)(.*)')
STORED AS TEXTFILE
LOCATION 's3a://logs/prod/raw/access';

SET hive.msck.path.validation=ignore;
MSCK REPAIR TABLE `lake`.`access`;

== athena
-- lake.access: archive web, output raw, topic access.
-- Reads s3://logs/prod/raw/access/dt=*/*: lines.
-- newlines = "escape": \\ stands for a backslash and \n for a newline in each line.
-- Payloads that are not UTF-8 are shown as the engine likes, or refused by it.
-- A payload with a carriage return inside is several rows: the engine ends lines there as well.
-- dt: nothing before 2025-01-01 is seen; --since tells another day. Rows without any time lie in the year 1.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake`.`access` (
  `line` STRING
)
PARTITIONED BY (`dt` STRING)
ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.RegexSerDe'
WITH SERDEPROPERTIES ('input.regex' = '(?s)(.*)')
STORED AS TEXTFILE
LOCATION 's3://logs/prod/raw/access/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.dt.type' = 'date',
  'projection.dt.format' = 'yyyy-MM-dd',
  'projection.dt.range' = '2025-01-01,NOW+1DAYS',
  'projection.dt.interval' = '1',
  'projection.dt.interval.unit' = 'DAYS',
  'storage.location.template' = 's3://logs/prod/raw/access/dt=${dt}/'
);

== bigquery
-- lake.access: archive web, output raw, topic access.
-- Reads gs://logs/prod/raw/access/*.txt.gz: lines.
-- newlines = "escape": \\ stands for a backslash and \n for a newline in each line.
-- Payloads that are not UTF-8 are shown as the engine likes, or refused by it.
-- Read as CSV whose delimiter, U+0001, must not be in the payloads.
-- A payload with a carriage return inside is several rows: the engine ends lines there as well.
CREATE EXTERNAL TABLE IF NOT EXISTS `lake.access` (
  `line` STRING
)
WITH PARTITION COLUMNS (`dt` DATE)
OPTIONS (
  format = 'CSV',
  field_delimiter = '\u0001',
  quote = '',
  compression = 'GZIP',
  uris = ['gs://logs/prod/raw/access/*.txt.gz'],
  hive_partition_uri_prefix = 'gs://logs/prod/raw/access'
);

== spark
-- lake.access: archive web, output raw, topic access.
-- Reads s3://logs/prod/raw/access/dt=*/*: lines.
-- newlines = "escape": \\ stands for a backslash and \n for a newline in each line.
-- Payloads that are not UTF-8 are shown as the engine likes, or refused by it.
-- s3a:// is Hadoop's own S3; on Amazon EMR write s3://.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `line` STRING,
  `dt` DATE
)
USING text
OPTIONS (lineSep '\n')
PARTITIONED BY (`dt`)
LOCATION 's3a://logs/prod/raw/access';

MSCK REPAIR TABLE `lake`.`access`;

== duckdb
-- lake.access: archive web, output raw, topic access.
-- Reads s3://logs/prod/raw/access/dt=*/*.txt.gz: lines.
-- newlines = "escape": \\ stands for a backslash and \n for a newline in each line.
-- Payloads that are not UTF-8 are shown as the engine likes, or refused by it.
-- Credentials: CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'eu-central-1');
-- An object with a carriage return inside of a payload is refused: strict_mode = false reads it, as several rows.
CREATE OR REPLACE VIEW "lake"."access" AS
SELECT * FROM read_csv(
  's3://logs/prod/raw/access/dt=*/*.txt.gz',
  auto_detect = false,
  header = false,
  columns = {'line': 'VARCHAR'},
  delim = '',
  quote = '',
  escape = '',
  hive_partitioning = true,
  hive_types = {'dt': DATE}
);

== clickhouse
-- lake.access: archive web, output raw, topic access.
-- Reads s3://logs/prod/raw/access/dt=*/*.txt.gz: lines.
-- newlines = "escape": \\ stands for a backslash and \n for a newline in each line.
-- Payloads that are not UTF-8 are shown as the engine likes, or refused by it.
-- Without keys behind the URL the server's own credentials count.
CREATE TABLE IF NOT EXISTS `lake`.`access` (
  `line` String,
  `dt` Date32
)
ENGINE = S3('https://logs.s3.eu-central-1.amazonaws.com/prod/raw/access/dt=*/*.txt.gz', 'LineAsString', 'gzip')
SETTINGS use_hive_partitioning = 1;

