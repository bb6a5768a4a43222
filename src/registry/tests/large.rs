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
