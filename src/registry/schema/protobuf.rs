//! Protocol Buffers as the registry has them: `.proto` files, messages by their place in the file.

use super::super::Target;
use super::{Part, built_in};
use crate::layout::Column;
use prost_reflect::prost::encoding::decode_varint;
use prost_reflect::{DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use std::collections::HashSet;

/// Most bytes of a schema with all that it imports.
const SOURCES_BYTES_MAX: usize = 16 << 20;
/// How deep a file may nest, brackets in texts and comments counted as well.
const NESTING_MAX: usize = 100;
/// How deep files import each other: its compiler goes into each import before it goes on.
const IMPORTS_MAX: usize = 100;
/// How deep messages are declared in each other.
const INDEXES_MAX: u64 = 100;

/// The file, with all that it imports.
pub(super) fn file(text: &str, parts: &[Part]) -> Result<FileDescriptor, String> {
    let bytes: usize = parts.iter().map(|part| part.text.len()).sum::<usize>() + text.len();
    if bytes > SOURCES_BYTES_MAX {
        return Err(format!("its files have {bytes} bytes together, more than {SOURCES_BYTES_MAX}"));
    }
    std::iter::once(text).chain(parts.iter().map(|part| part.text.as_str())).try_for_each(check_nesting)?;
    // What the file of the schema itself is called: as nothing that it imports is.
    let mut root = "schema.proto".to_string();
    while text.contains(&root) || parts.iter().any(|part| part.name == root || part.text.contains(&root)) {
        root.insert(0, '_');
    }
    let mut resolver = ChainFileResolver::new();
    let mut sources = vec![(root.clone(), text.to_string())];
    sources.extend(parts.iter().map(|part| (part.name.clone(), part.text.clone())));
    sources.extend(built_in::FILES.map(|(name, text)| (name.to_string(), text.to_string())));
    let sources = Sources(sources);
    check_imports(&root, &sources)?;
    resolver.add(sources);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    compiler.open_file(&root).map_err(|error| error.to_string())?;
    let set = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(set.as_slice()).map_err(|error| error.to_string())?;
    pool.get_file_by_name(&root).ok_or_else(|| "its file is not among what was compiled".to_string())
}

/// Refuses what nests deeper than its compiler, which has no bound, can take.
fn check_nesting(text: &str) -> Result<(), String> {
    let mut open = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'(' | b'<' => open += 1,
            b'}' | b']' | b')' | b'>' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > NESTING_MAX {
            return Err(format!("it nests deeper than {NESTING_MAX}"));
        }
    }
    Ok(())
}

/// Refuses files that import each other deeper than the compiler, which has no bound, can take. They are met in its order.
fn check_imports(root: &str, sources: &Sources) -> Result<(), String> {
    let mut seen = HashSet::new();
    let mut open = vec![(root.to_string(), 0)];
    while let Some((name, depth)) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        if depth > IMPORTS_MAX {
            return Err(format!("its files import each other deeper than {IMPORTS_MAX}"));
        }
        // The compiler tells what is no file of its kind, or is not there.
        let Ok(file) = sources.open_file(&name) else { continue };
        let imports = file.file_descriptor_proto().dependency.iter().rev();
        open.extend(imports.map(|import| (import.clone(), depth + 1)));
    }
    Ok(())
}

struct Sources(Vec<(String, String)>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let found = self.0.iter().find(|(known, _)| known == name);
        let (_, source) = found.ok_or_else(|| protox::Error::file_not_found(name))?;
        File::from_source(name, source)
    }
}

/// One message of a file.
#[derive(Clone, Debug)]
pub struct Message(pub MessageDescriptor);

impl Message {
    /// The message that `payload`, which is behind the id, says it is of; and the bytes that it says so with.
    ///
    /// # Errors
    /// It names none of the file.
    pub fn of_payload(file: &FileDescriptor, payload: &[u8]) -> Result<(Self, usize), String> {
        let mut rest = payload;
        let mut next = || -> Result<u64, String> {
            let zigzag = decode_varint(&mut rest).map_err(|_| "the indexes of its message are cut off".to_string())?;
            // Negative numbers are no indexes: they come out larger than all that are.
            Ok(if zigzag & 1 == 0 { zigzag >> 1 } else { u64::MAX })
        };
        let count = next()?;
        let mut indexes = vec![0];
        if count > 0 {
            if count > INDEXES_MAX {
                return Err(format!("a message of {count} indexes"));
            }
            indexes = (0..count).map(|_| next()).collect::<Result<_, _>>()?;
        }
        let none = || format!("the schema has no message {indexes:?}");
        let mut path = indexes.iter().map(|&index| usize::try_from(index).unwrap_or(usize::MAX));
        let mut message = path.next().and_then(|index| file.messages().nth(index)).ok_or_else(none)?;
        for index in path {
            // What a map field makes by itself is not counted.
            let child = message.child_messages().filter(|child| !child.is_map_entry()).nth(index);
            message = child.ok_or_else(none)?;
        }
        Ok((Self(message), payload.len() - rest.len()))
    }

    /// The message that `target` names.
    ///
    /// # Errors
    /// It names none of the file.
    pub fn of_target(file: &FileDescriptor, target: &Target) -> Result<Self, String> {
        let name = target.message.as_deref().unwrap_or_default();
        let found = file.parent_pool().get_message_by_name(name);
        found.map(Self).ok_or_else(|| format!("schema {} has no message {name}", target.id))
    }

    /// The columns of its rows.
    pub(super) fn columns(&self) -> Result<Vec<Column>, String> {
        crate::decode::columns::columns_of_message(&self.0)
    }

    /// Whether data of `writer` means the same read as this message: fields of one number are of one kind.
    pub(super) fn reads(&self, writer: &Self) -> Result<(), String> {
        let mut compare = Compare { seen: HashSet::new(), open: Vec::new() };
        compare.pair(&self.0, &writer.0)?;
        // One after the other, not inside each other: types can refer to others in long chains.
        while let Some((reader, writer)) = compare.open.pop() {
            check_oneofs(&reader, &writer)?;
            compare.fields(&reader, &writer)?;
        }
        Ok(())
    }
}

/// Two schemas that are compared, message by message.
struct Compare {
    /// The messages that were met, which are called the same in both.
    seen: HashSet<String>,
    /// Those of them that are still to be compared: the reader's and the writer's.
    open: Vec<(MessageDescriptor, MessageDescriptor)>,
}

impl Compare {
    fn pair(&mut self, reader: &MessageDescriptor, writer: &MessageDescriptor) -> Result<(), String> {
        if reader.full_name() != writer.full_name() {
            return Err(format!("{} is another message than {}", writer.full_name(), reader.full_name()));
        }
        if self.seen.insert(reader.full_name().to_string()) {
            self.open.push((reader.clone(), writer.clone()));
        }
        Ok(())
    }

    fn fields(&mut self, reader: &MessageDescriptor, writer: &MessageDescriptor) -> Result<(), String> {
        for field in reader.fields() {
            let Some(written) = writer.get_field(field.number()) else { continue };
            let place = || format!("field {} of {}", field.number(), reader.full_name());
            if field.is_list() != written.is_list() || field.is_map() != written.is_map() {
                return Err(format!("{} is repeated in one schema and not in the other", place()));
            }
            match (field.kind(), written.kind()) {
                (Kind::Message(new), Kind::Message(old)) if field.is_map() => {
                    let value = |entry: &MessageDescriptor| entry.map_entry_value_field();
                    let key = |entry: &MessageDescriptor| entry.map_entry_key_field();
                    if !fits(&key(&old), &key(&new)) {
                        return Err(format!("the keys of {} are of another type", place()));
                    }
                    self.field(&value(&new), &value(&old), place)?;
                }
                _ => self.field(&field, &written, place)?,
            }
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &FieldDescriptor,
        written: &FieldDescriptor,
        place: impl Fn() -> String,
    ) -> Result<(), String> {
        match (field.kind(), written.kind()) {
            (Kind::Message(new), Kind::Message(old)) => self.pair(&new, &old),
            _ if fits(written, field) => Ok(()),
            (new, old) => Err(format!("{} was {old:?} and is {new:?}", place())),
        }
    }
}

/// Refuses fields that could be set together and exclude each other now: all but the last one would be lost.
fn check_oneofs(reader: &MessageDescriptor, writer: &MessageDescriptor) -> Result<(), String> {
    for oneof in reader.oneofs() {
        let written: Vec<FieldDescriptor> =
            oneof.fields().filter_map(|field| writer.get_field(field.number())).collect();
        let before = |field: &FieldDescriptor| field.containing_oneof().map(|before| before.name().to_string());
        if let [first, others @ ..] = written.as_slice()
            && let Some(other) = others.iter().find(|other| before(first).is_none() || before(other) != before(first))
        {
            return Err(format!(
                "fields {} and {} of {} exclude each other in one schema and not in the other",
                first.number(),
                other.number(),
                reader.full_name()
            ));
        }
    }
    Ok(())
}

/// Whether values of `old` keep their meaning as `new`: the same kind, or a wider one of the same encoding.
fn fits(old: &FieldDescriptor, new: &FieldDescriptor) -> bool {
    match (old.kind(), new.kind()) {
        (Kind::Int32, Kind::Int64)
        | (Kind::Uint32, Kind::Uint64 | Kind::Int64)
        | (Kind::Sint32, Kind::Sint64)
        | (Kind::Bool, Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64)
        | (Kind::String, Kind::Bytes) => true,
        (Kind::Enum(old), Kind::Enum(new)) => old.full_name() == new.full_name(),
        (old, new) => old == new,
    }
}
