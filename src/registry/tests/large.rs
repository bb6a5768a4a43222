//! Goal: schemas of any size are read or refused within the stack of a thread and within seconds.

use super::*;

/// Does `what` on the stack that threads of the pipeline and of the runtime have.
fn on_a_stack_of_2_mib(what: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(what).expect("a thread");
    thread.join().expect("no panic");
}

/// `.proto` text of `count` messages, each with a field of the next.
fn chain(count: usize, last: &str) -> String {
    let links = (0..count).map(|number| format!("message A{number} {{ A{} f = 1; }}", number + 1));
    format!("syntax = \"proto3\"; {} message A{count} {{ {last} }}", links.collect::<String>())
}

#[test]
fn protobuf_types_may_refer_to_others_in_long_chains() {
    on_a_stack_of_2_mib(|| {
        let texts = [chain(20_000, "int32 a = 1;"), chain(20_000, "int64 a = 1;"), chain(20_000, "string a = 1;")];
        let registry = Arc::new(numbered(RegistryFormat::Protobuf, &texts));
        let decode = Decode::Registry { format: RegistryFormat::Protobuf, ignore_unknown: false };
        let row = |aim: Aim| {
            let schemas = Schemas { registry: Some(registry.clone()), aim, ..Schemas::default() };
            let decoder = by_registry(&decode, &schemas).expect("a registry").expect("a decoder");
            let record = OwnedRecord::default();
            let mut rows = Rows::default();
            // Of schema 1, its first message, without a field.
            let decoded = decoder.decode(&record.as_record(), &[0, 0, 0, 0, 1, 0], &mut rows);
            decoded.map(|()| rows.get(0).expect("a row").to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(row(Aim::Own).as_deref(), Ok("{}"));
        assert_eq!(row(Aim::At(target("2:A0"), known(&registry, 2))).as_deref(), Ok("{}"));
        let problem = reads(&registry, "3:A0", "1:A0").expect_err("a number is no text");
        assert_eq!(problem, "field 1 of A20000 was int32 and is string");
        let any = chain(20_000, "google.protobuf.Any a = 1;");
        let any = any.replacen(';', "; import \"google/protobuf/any.proto\";", 1);
        let registry = Arc::new(numbered(RegistryFormat::Protobuf, &[any]));
        let schemas = Schemas { registry: Some(registry), ..Schemas::default() };
        let decoder = by_registry(&decode, &schemas).expect("a registry").expect("a decoder");
        let refused = decoder.decode(&OwnedRecord::default().as_record(), &[0, 0, 0, 0, 1, 0], &mut Rows::default());
        let problem = refused.expect_err("it holds Any").to_string();
        assert!(problem.contains("A0 holds google.protobuf.Any"), "{problem}");
    });
}

#[test]
fn protobuf_files_that_import_others_in_long_chains_are_refused() {
    on_a_stack_of_2_mib(|| {
        let of = |files: usize| {
            let file = |number: usize| match number == files {
                true => format!("syntax = \"proto3\"; message A{number} {{ int32 a = 1; }}"),
                false => format!(
                    "syntax = \"proto3\"; import \"f{0}.proto\"; message A{number} {{ A{0} f = 1; }}",
                    number + 1
                ),
            };
            let parts: Vec<_> = (1..=files).rev().map(|number| (format!("f{number}.proto"), file(number))).collect();
            let parts: Vec<_> = parts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            let registry = Registry::knowing(RegistryFormat::Protobuf, &[(1, &file(0), &parts, 1)]);
            known(&registry, 1).shape().map(drop)
        };
        assert_eq!(of(100), Ok(()));
        let problem = of(1_000).expect_err("too deep");
        assert_eq!(problem, "schema 1 cannot be used: its files import each other deeper than 100");
    });
}

/// What `what` gives, if it does so in time: far more than it takes unless that grows with the square of what it reads.
fn in_time<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(what()));
    receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("it is done in time")
}

#[test]
fn avro_schemas_with_many_names_are_compared_in_time() {
    in_time(|| {
        let of = |symbols: &mut dyn Iterator<Item = usize>| {
            let symbols: Vec<String> = symbols.map(|symbol| format!("\"s{symbol}\"")).collect();
            record_of(&format!(
                r#"{{"name":"e","type":{{"type":"enum","name":"E","symbols":[{}]}}}}"#,
                symbols.join(",")
            ))
        };
        const SYMBOLS: usize = 200_000;
        let schemas = [of(&mut (0..SYMBOLS)), of(&mut (0..SYMBOLS).rev())];
        let last = number_as_data(SYMBOLS - 1);
        assert_eq!(projected(&schemas[0], &schemas[1], &last).as_deref(), Ok(r#"{"e":"s199999"}"#));
        let fields = |field: &dyn Fn(usize) -> String| record_of(&(0..9_000).map(field).collect::<Vec<_>>().join(","));
        let writer = fields(&|number| format!(r#"{{"name":"a{number}","type":"int"}}"#));
        let reader =
            fields(&|number| format!(r#"{{"name":"b{number}","aliases":["a{}"],"type":"int"}}"#, 8_999 - number));
        let data: Vec<u8> = [vec![0; 8_999], vec![2]].concat();
        let row = projected(&writer, &reader, &data).expect("a row");
        assert!(row.starts_with(r#"{"b0":1,"b1":0,"#), "{}", &row[..40]);
    });
}

#[test]
fn avro_schemas_with_too_many_names_are_refused_in_time() {
    in_time(|| {
        let union = |branches: &mut dyn Iterator<Item = usize>| {
            let branch = |number| format!(r#"{{"type":"record","name":"R{number}","fields":[]}}"#);
            record_of(&format!(r#"{{"name":"u","type":[{}]}}"#, branches.map(branch).collect::<Vec<_>>().join(",")))
        };
        let of = |branches: usize| [union(&mut (0..branches)), union(&mut (0..branches).rev())];
        let [writer, reader] = of(1_000);
        assert_eq!(projected(&writer, &reader, &[0]).as_deref(), Ok(r#"{"u":{}}"#));
        let [writer, reader] = of(3_000);
        let problem = projected(&writer, &reader, &[0]).expect_err("three thousand times as many");
        assert!(problem.ends_with("there are too many names to compare, more than 2000000"), "{problem}");
        // Each of many defaults is the last symbol.
        let symbols: Vec<String> = (0..100_000).map(|symbol| format!("\"s{symbol}\"")).collect();
        let reader = record_of(&format!(
            r#"{{"name":"many","type":{{"type":"array","items":{{"type":"enum","name":"E","symbols":[{}]}}}},"default":[{}]}}"#,
            symbols.join(","),
            ["\"s99999\""; 50_000].join(",")
        ));
        let problem = projected(&record_of(""), &reader, &[]).expect_err("too many");
        assert!(problem.ends_with("R.many: there are too many names to compare, more than 2000000"), "{problem}");
    });
}
