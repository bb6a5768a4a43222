//! Whether the numbers of one receipt add up. Pure.

use crate::bucket::receipt::{OutputBalance, Receipt, ReceiptObject};
use crate::layout::Layout;
use std::collections::BTreeMap;

/// What does not add up: outputs, and what is wrong. `layout`: that of the receipt, where it is known.
///
/// Rows are only added up where the receipt names neither kept objects nor lost rows: then it says itself that they differ.
pub(super) fn unbalanced(receipt: &Receipt, layout: Option<&Layout>) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let balance = &receipt.balance;
    for (name, output) in &balance.outputs {
        let dropped: u64 = output.dropped.values().sum();
        let told = output.archived.saturating_add(output.dead_lettered).saturating_add(dropped);
        if told != balance.consumed {
            let what = format!(
                "{} records were read, and {} archived, {} dead letters and {dropped} dropped are {told}",
                balance.consumed, output.archived, output.dead_lettered
            );
            wrong.push((name.clone(), what));
        }
    }
    let differs_openly = !receipt.lost.is_empty() || receipt.objects.iter().any(|object| object.kept.is_some());
    if differs_openly {
        return wrong;
    }
    for (name, output) in &balance.outputs {
        wrong.extend(of_objects(receipt, name, output, layout).map(|what| (name.clone(), what)));
    }
    wrong
}

/// What the objects of one output have against its balance.
fn of_objects(receipt: &Receipt, name: &str, output: &OutputBalance, layout: Option<&Layout>) -> Option<String> {
    let mut places: BTreeMap<&str, Vec<&ReceiptObject>> = BTreeMap::new();
    let of_layout = layout.and_then(|layout| layout.outputs.iter().find(|output| output.name == name));
    for destination in of_layout.iter().flat_map(|output| &output.place.destinations) {
        places.insert(destination, Vec::new());
    }
    for object in receipt.objects.iter().filter(|object| object.output == name) {
        places.entry(&object.destination).or_default().push(object);
    }
    if places.is_empty() && output.rows > 0 {
        return Some(format!("{} rows were archived, and no object is named", output.rows));
    }
    let is_row_each = layout.is_some_and(super::layouts::is_row_each);
    for (destination, objects) in places {
        let rows: Option<u64> = objects.iter().map(|object| object.rows).sum();
        if let Some(rows) = rows.filter(|&rows| rows != output.rows) {
            let archived = output.rows;
            return Some(format!("{archived} rows were archived, and its objects at {destination} have {rows}"));
        }
        let records: Option<u64> = objects.iter().map(|object| object.records).sum();
        if let Some(records) = records.filter(|&records| is_row_each && records != output.archived) {
            let archived = output.archived;
            return Some(format!("{archived} records were archived, and its objects at {destination} have {records}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::world::receipt;
    use super::*;
    use crate::bucket::receipt::LostRows;

    #[test]
    fn what_does_not_add_up_is_told() {
        let good = receipt(0, 100, &[("a", 60), ("b", 40)]);
        assert_eq!(unbalanced(&good, None), []);
        let change = |change: &dyn Fn(&mut Receipt)| {
            let mut changed = good.clone();
            change(&mut changed);
            let wrong = unbalanced(&changed, None);
            wrong.into_iter().map(|(_, what)| what).collect::<Vec<_>>().join("; ")
        };
        assert!(change(&|receipt| receipt.balance.consumed += 1).contains("101 records were read"));
        assert!(change(&|receipt| receipt.objects[0].rows = Some(61)).contains("have 101"));
        assert!(change(&|receipt| drop(receipt.objects.pop())).contains("have 60"));
        assert!(change(&|receipt| receipt.objects.clear()).contains("no object is named"));
        // What a receipt says itself is no fault.
        let lost = LostRows { output: "json".into(), destination: "d".into(), key: "b".into(), rows: 40 };
        assert_eq!(change(&|receipt| (receipt.objects.truncate(1), receipt.lost.push(lost.clone())).1), "");
        assert_eq!(change(&|receipt| receipt.objects[0].rows = None), "");
        let keep = |receipt: &mut Receipt| {
            (receipt.objects[0].rows, receipt.objects[0].kept) = (Some(70), Some("other".to_string()));
        };
        assert_eq!(change(&keep), "");
    }
}
