//! Goal: one damaged document of a compaction is told once, and is in the way of nothing but its own unit. Method: as in the module above.

use super::*;

/// Damages the receipt of a compaction of the hour 09 of partition 0, which is given, and the mark that it is done is deleted where that is asked for.
async fn damaged(world: &World, is_done: bool) -> (Path, String) {
    let keys = world.keys().await;
    let mut found = None;
    for key in keys.iter().filter(|key| key.as_ref().contains("/compactions/") && key.as_ref().ends_with(".json")) {
        let bytes = world.main.get(key).await.expect("there").bytes().await.expect("read");
        let receipt: Value = serde_json::from_slice(&bytes).expect("JSON");
        let object = receipt["groups"][0]["key"].as_str().expect("a key").to_string();
        if object.contains("hr=09/t+00000") {
            world.main.put(key, bytes.slice(..bytes.len() / 2).into()).await.expect("put");
            found = Some((key.clone(), object, format!("{}.1.done", receipt["unit"].as_str().expect("a unit"))));
        }
    }
    let (path, object, mark) = found.expect("such a compaction");
    if !is_done {
        let mark = keys.iter().find(|key| key.as_ref().ends_with(&mark)).expect("a mark");
        world.main.delete(mark).await.expect("deleted");
    }
    (path, object)
}

async fn with_json() -> (World, Config) {
    let world = World::new();
    let config = world.config(&format!("{BY_TIME}{}", output("json", "type = \"json\", compression = \"gzip\"", "")));
    three_by_three(&world, &config, |_, _| 0).await;
    compact(&world, &config, "").await;
    (world, config)
}

#[tokio::test]
async fn a_damaged_receipt_is_told_once_and_written_again() {
    let (world, config) = with_json().await;
    let (before, keys) = (printed(&world, &config, &["json"]).await, data_keys(&world).await);
    let (path, object) = damaged(&world, true).await;
    let (findings, notes, told) = verified(&world, &config).await;
    assert!(findings.len() == 1 && notes.is_empty() && told.repairs.is_empty(), "{findings:#?} {notes:?}");
    let found = &findings[0];
    assert_eq!((found.kind(), &found.place), (Kind::Unreadable, &Some((URL.to_string(), path.to_string()))));
    assert!(found.compaction.is_some() && found.what().contains("siltstone compact writes it again"), "{found}");
    // What was deleted on its word tells what it said, so that the claim is enough.
    assert_eq!(printed(&world, &config, &["json"]).await, before);
    for line in ["", "--sweep", "--dry-run"] {
        let done = summary(&compact(&world, &config, line).await);
        assert_eq!((&done["stopped"], &done["compactions"]), (&0.into(), &0.into()), "{done}");
    }
    assert_eq!(data_keys(&world).await, keys);
    // And with the object lost as well: that is told, and nothing else.
    let bytes = world.main.get(&Path::from(object.as_str())).await.expect("there").bytes().await.expect("read");
    world.main.delete(&Path::from(object.as_str())).await.expect("lost");
    let (findings, ..) = verified(&world, &config).await;
    let kinds: Vec<Kind> = findings.iter().map(Finding::kind).collect();
    assert_eq!(kinds, [Kind::Unreadable, Kind::Missing], "{findings:#?}");
    world.main.put(&Path::from(object.as_str()), bytes.into()).await.expect("put");
    world.main.delete(&path).await.expect("moved away");
    let done = compact(&world, &config, "").await;
    assert_eq!(summary(&done)["compactions"], 1, "{}", done.out);
    assert_eq!((printed(&world, &config, &["json"]).await, data_keys(&world).await), (before, keys));
    assert_clean(&world, &config, "written again").await;
}

/// Goal: where nobody knows whether it counted, only its unit stands still.
#[tokio::test]
async fn a_damaged_receipt_of_an_unfinished_compaction_stops_its_unit_alone() {
    let (world, config) = with_json().await;
    let before = printed(&world, &config, &["json"]).await;
    let (path, _) = damaged(&world, false).await;
    let (findings, notes, told) = verified(&world, &config).await;
    assert_eq!((findings.len(), notes), (1, vec!["open_compaction"]), "{findings:#?}");
    assert!(findings[0].kind() == Kind::Unreadable && told.repairs.is_empty(), "{findings:#?}");
    let failure = world.run(&config, "cat --topic t").await.exit.expect_err("nobody knows which objects count");
    assert!(failure.exit == Exit::Stopped && failure.message.contains("move it away"), "{failure}");
    // Other hours of that Kafka partition, and other Kafka partitions, go on.
    for partition in 0..3 {
        let at = |minute: i64| BASE_MS + minute * MINUTE_MS;
        let late: Vec<OwnedRecord> =
            (30..40).map(|offset| record(partition, offset, at(if offset < 35 { 65 } else { 130 }))).collect();
        world.archived(&config, (30, 40), &late).await;
    }
    let ran = compact_at_later(&world, &config, "--before 2d --json".to_string()).await;
    let last = ran.json().pop().expect("a summary");
    assert_eq!((&last["stopped"], &last["compactions"]), (&1.into(), &5.into()), "{}", ran.out);
    assert_eq!(ran.exit.expect_err("told").exit, Exit::Stopped);
    world.main.delete(&path).await.expect("moved away");
    let done = summary(&compact(&world, &config, "").await);
    assert_eq!((&done["stopped"], &done["compactions"]), (&0.into(), &2.into()), "{done}");
    assert_clean(&world, &config, "written again").await;
    let after = printed(&world, &config, &["json"]).await;
    for (line, rows) in before {
        assert_eq!(after[&line].lines().count(), rows.lines().count() + 30, "{line}");
    }
}
