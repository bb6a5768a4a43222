//! What findings come to, and what of it is asked of the bucket.

mod in_bucket;

use super::*;

fn finding(first: i64, end: i64, fault: Fault) -> Finding {
    let partition = TopicPartition::new("t", 0);
    Finding {
        archive: "a".into(),
        partition,
        first,
        end: Some(end),
        place: None,
        replay: None,
        compaction: None,
        fault,
    }
}

/// An archive whose objects lie in folders by hour.
fn config() -> Config {
    let text = r#"
        [kafka]
        brokers = "nowhere:9092"
        [destinations.main]
        url = "file:///nowhere"
        [[archive]]
        name = "a"
        topics = ["t"]
        [[archive.output]]
        format = { type = "json", compression = "none" }
        layout = { path = "{topic}/%Y/%m/%d/%H", name = "{partition}+{first}-{end}" }
    "#;
    let config = crate::config::parse(text, std::path::Path::new(""), &|_| None);
    config.unwrap_or_else(|errors| panic!("the test's own configuration: {errors}"))
}

/// Nothing is found yet of that archive.
fn found() -> Found {
    Found { names: recognisers(&config().archives[0].layout), ..Found::default() }
}

fn missing(findings: Vec<Finding>, live: i64, ranges_max: usize) -> Missing {
    let mut found = found();
    findings.iter().for_each(|finding| found.add(finding));
    found.into_missing(&BTreeMap::from([(0, live)]), &BTreeMap::new(), ranges_max)
}

/// The same, with a log that begins at `start`.
fn with_log_from(start: i64, findings: &[Finding]) -> Missing {
    let mut found = found();
    findings.iter().for_each(|finding| found.add(finding));
    found.into_missing(&BTreeMap::from([(0, 1_000)]), &BTreeMap::from([(0, start)]), 99)
}

fn kept(missing: &Missing) -> Vec<(i64, i64, u64, Option<i64>)> {
    let of = missing.found.kept.iter();
    of.map(|kept| (kept.first, kept.end, kept.objects, kept.in_kafka_from)).collect()
}

/// As a batch of these offsets would put it.
fn stranger(first: i64, end: Option<i64>) -> Finding {
    let place = end.map(|end| ("file:///nowhere".to_string(), format!("t/2025/11/21/03/0+{first}-{end}.json")));
    Finding { end, place, ..finding(first, first, Fault::Unvouched { bytes: 1, why: "" }) }
}

fn ranges(missing: &Missing) -> Vec<(i64, i64, bool)> {
    missing.resolved.ranges.iter().map(|range| (range.first, range.end, range.batch)).collect()
}

#[test]
fn batches_stay_batches_and_gaps_are_cut_by_names() {
    let gone = || Fault::Missing { bytes: 1 };
    let other = || Fault::Checksum { expected: "a".into(), found: "b".into() };
    let found = missing(
        vec![
            finding(0, 10, gone()),
            finding(0, 10, gone()),
            finding(10, 20, other()),
            finding(30, 60, Fault::Gap),
            stranger(40, Some(50)),
            stranger(50, Some(58)),
            stranger(55, Some(60)),
            finding(60, 70, Fault::Unfinished),
            finding(5, 8, Fault::Overlap { other: OffsetRange::new(0, 8) }),
            finding(90, 101, gone()),
            Finding { replay: Some(1), ..finding(70, 80, gone()) },
            finding(80, 90, Fault::Unreadable { what: "x".into(), newer: false }),
        ],
        100,
        99,
    );
    assert_eq!(
        ranges(&found),
        [(0, 10, true), (10, 20, true), (30, 40, false), (40, 50, true), (50, 60, false), (60, 70, true)]
    );
    assert_eq!(found.resolved.read_back, [JobBatch { partition: 0, first: 10 }]);
    let told = found.found;
    assert_eq!((told.later, told.blocked.len(), told.revouched), (1, 1, 1));
    let besides = [("overlap", 1), ("missing", 1), ("unvouched", 3)];
    assert_eq!(told.besides, besides.into_iter().map(|(word, count)| (word.to_string(), count)).collect());
    assert_eq!(told.findings["missing"], 4);
    assert!(!told.is_mended());
}

#[test]
fn what_is_too_much_is_left_to_the_next_job() {
    let findings: Vec<Finding> =
        (0..5).map(|at| finding(at * 10, at * 10 + 10, Fault::Size { expected: 1, found: 2 })).collect();
    let found = missing(findings.clone(), 100, 3);
    assert_eq!((ranges(&found).len(), found.found.later), (3, 2));
    assert!(!found.found.is_mended());
    assert!(missing(findings, -1, 3).is_empty());
    assert!(missing(Vec::new(), 100, 3).is_empty());
}

/// Goal: what Kafka holds no more is never absent where names of objects reach into it, and everything else of the gap is archived.
#[test]
fn what_objects_reach_into_and_kafka_lacks_is_left_as_it_is() {
    let gap = || finding(100, 300, Fault::Gap);
    let named = |first, end| stranger(first, Some(end));
    let all =
        [gap(), named(90, 110), named(120, 150), named(120, 150), named(150, 160), named(180, 220), named(240, 260)];
    let found = with_log_from(200, &all);
    assert_eq!(kept(&found), [(100, 110, 1, None), (120, 160, 3, None), (180, 220, 1, Some(200))]);
    assert_eq!(
        ranges(&found),
        [(110, 120, false), (160, 180, false), (220, 240, false), (240, 260, true), (260, 300, false)]
    );
    // Should Kafka delete more before the job is through.
    let unvouched: Vec<_> = found.resolved.unvouched.iter().map(|range| (range.first, range.end)).collect();
    assert_eq!(unvouched, [(240, 260)]);
    assert_eq!((found.found.revouched, found.found.is_mended()), (1, false));
    assert_eq!(with_log_from(100, &all).found.kept, []);
    assert_eq!(kept(&with_log_from(400, &all)).len(), 4);
    assert_eq!(kept(&with_log_from(400, &[gap()])), []);
}

/// Goal: a name that tells no end may reach far, and nothing that Kafka still has is left for it.
#[test]
fn a_name_without_an_end_keeps_what_kafka_lacks_behind_it() {
    let all = [finding(100, 300, Fault::Gap), stranger(50, None), stranger(130, None), stranger(250, None)];
    let found = with_log_from(200, &all);
    assert_eq!(kept(&found), [(130, 200, 1, None)]);
    assert_eq!(ranges(&found), [(100, 130, false), (200, 300, false)]);
    let unvouched: Vec<_> = found.resolved.unvouched.iter().map(|range| (range.first, range.end)).collect();
    assert_eq!(unvouched, [(200, 300)]);
}

/// Goal: what a compaction or a replay made, or a batch of another layout, is not put again by archiving what its name tells: it makes no batch, and is
/// not taken for mended; and it keeps its offsets from being declared absent all the same.
#[test]
fn only_what_a_batch_puts_again_tells_one() {
    let gap = || finding(100, 300, Fault::Gap);
    let elsewhere = Some(("file:///nowhere".to_string(), "t/dt=2025-11-21/0+120-160.json".to_string()));
    let others = [
        Finding { compaction: Some("3".into()), ..stranger(120, Some(160)) },
        Finding { replay: Some(1), ..stranger(120, Some(160)) },
        Finding { place: elsewhere, ..stranger(120, Some(160)) },
    ];
    for other in others {
        let found = with_log_from(100, &[gap(), other.clone()]);
        assert_eq!(ranges(&found), [(100, 300, false)], "{other}");
        assert_eq!((found.found.revouched, found.found.is_mended()), (0, false), "{other}");
        let found = with_log_from(150, &[gap(), other.clone()]);
        assert_eq!(kept(&found), [(120, 160, 1, Some(150))], "{other}");
        // Beside one that a batch has put, which it puts again.
        let found = with_log_from(100, &[gap(), other.clone(), stranger(120, Some(160))]);
        assert_eq!(ranges(&found), [(100, 120, false), (120, 160, true), (160, 300, false)], "{other}");
        assert_eq!((found.found.revouched, found.found.is_mended()), (1, false), "{other}");
    }
    assert!(with_log_from(100, &[gap(), stranger(120, Some(160))]).found.is_mended());
}

/// Goal: rows that a compaction took in, of batches that have lost their receipts, are not archived beside it, and everything else is.
#[test]
fn what_compactions_hold_without_a_receipt_is_left_out_and_told() {
    let mut found = found();
    for one in
        [finding(100, 300, Fault::Gap), finding(300, 400, Fault::Unfinished), finding(400, 500, Fault::Unfinished)]
    {
        found.add(&one);
    }
    let held = |first, end| (OffsetRange::new(first, end), format!("{first} is held"));
    found.compacted.insert(0, BTreeMap::from([held(150, 200), held(320, 330)]));
    let missing = found.into_missing(&BTreeMap::from([(0, 1_000)]), &BTreeMap::new(), 99);
    assert_eq!(ranges(&missing), [(100, 150, false), (200, 300, false), (400, 500, true)]);
    assert_eq!(missing.found.blocked, ["320 is held", "150 is held"]);
    assert!(!missing.found.is_mended());
}

/// Goal: an object beside the one that a receipt names may hold rows of what is behind its batch, and one that told a batch may lie beside what was put.
#[test]
fn objects_beside_those_of_a_receipt_are_strangers_too() {
    let doubled = |first, end| Finding { fault: Fault::Doubled { beside: "x".into() }, ..stranger(first, Some(end)) };
    let found = with_log_from(300, &[doubled(100, 300), finding(200, 300, Fault::Gap)]);
    assert_eq!((kept(&found), ranges(&found)), (vec![(200, 300, 1, None)], vec![]));
    // One that a compaction or a replay made, and a batch's receipt names as well, holds what these say, and not all that its name tells.
    for made in [
        Finding { compaction: Some("3".into()), ..doubled(100, 300) },
        Finding { replay: Some(1), ..doubled(100, 300) },
    ] {
        let found = with_log_from(300, &[made.clone(), finding(200, 300, Fault::Gap)]);
        assert_eq!((kept(&found), ranges(&found)), (vec![], vec![(200, 300, false)]), "{made}");
        assert!(found.resolved.unvouched.is_empty() && !found.found.is_mended(), "{made}");
    }
}

/// Goal: a named range may begin inside a batch whose name tells no end.
#[test]
fn a_name_without_an_end_reaches_over_the_beginning_of_a_range() {
    let mut strangers = Strangers::default();
    strangers.add(&stranger(400, None), false);
    let range = OffsetRange::new(500, 900);
    let kept = |from, start| -> Vec<OffsetRange> {
        strangers.kept_from(0, range, from, start).iter().map(JobKept::range).collect()
    };
    assert_eq!((kept(500, 700), kept(401, 700)), (vec![], vec![]));
    assert_eq!((kept(400, 700), kept(0, 500)), (vec![OffsetRange::new(500, 700)], vec![]));
    assert_eq!(strangers.reaching_from(range, 400), [range]);
    assert!(strangers.may_reach_over(401) && !strangers.may_reach_over(400));
}

#[test]
fn a_claimed_batch_is_left_whole_and_one_with_a_receipt_is_mended() {
    let of = |fault: Fault| with_log_from(15, &[finding(10, 20, fault), stranger(12, Some(14))]);
    let unfinished = of(Fault::Unfinished);
    assert_eq!((kept(&unfinished), ranges(&unfinished)), (vec![(10, 20, 1, Some(15))], vec![]));
    let vouched = of(Fault::Missing { bytes: 1 });
    assert_eq!((kept(&vouched), ranges(&vouched)), (vec![], vec![(10, 20, true)]));
    assert!(!vouched.found.is_mended(), "the stranger is left");
}
