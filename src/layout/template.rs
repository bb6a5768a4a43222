//! The templates of folders and names: `{topic}/dt=%Y-%m-%d/hr=%H` and `{topic}+{partition:05}+{first:020}-{end:020}`.
//!
//! | in a template | renders |
//! |---|---|
//! | `{topic}` | the topic |
//! | `{topic[1]}` | a part of the topic split at its dots, counted from 0; a part that is not there is null |
//! | `{partition}` | the Kafka partition |
//! | `{first}`, `{end}` | the batch's offsets `[first, end)`; in names only |
//! | `{output}`, `{generation}` | the output's name; the archive's generation |
//! | `{field.a.b}`, `{field."a.b"}` | a field of the decoded payload, nested; names with dots in quotes |
//! | `{field.a[1]}` | a part of such a field split at its dots, counted from 0; a part that is not there is null |
//! | `{header.x}`, `{key}` | the last header of that name; the record's key |
//! | `%Y`, `%m`, … | the event time in the layout's zone: chrono's strftime |
//! | `{{`, `}}`, `%%` | `{`, `}`, `%` |
//!
//! `{partition:05}` pads a number with zeros to that many digits; so do `first`, `end` and `generation`.
//! Text is limited to printable ASCII that every store, shell and Hadoop path takes as it is.
//! How values are written: [`super::encode`]. What a template needs to be safe beside others: [`super::collide`].

use super::directive::Directive;

/// A parsed template: path segments, each of at least one piece. An empty path has no segment, a name exactly one.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// What lies between the slashes.
    pub segments: Vec<Vec<Piece>>,
}

/// What a template is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateKind {
    /// The folder: may be empty and may contain slashes; holds no offsets.
    Path,
    /// The object's name without its extension.
    Name,
}

/// A piece of a path segment.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Itself.
    Text(String),
    /// A part of the event time.
    Time(Directive),
    /// `{topic}`.
    Topic,
    /// `{topic[n]}`.
    TopicWord(usize),
    /// `{partition}`.
    Partition(Width),
    /// `{first}`.
    First(Width),
    /// `{end}`.
    End(Width),
    /// `{generation}`.
    Generation(Width),
    /// `{output}`.
    Output,
    /// `{field.…}`: the path, outermost name first.
    Field(Vec<String>),
    /// `{field.…[n]}`.
    FieldWord(Vec<String>, usize),
    /// `{header.…}`.
    Header(String),
    /// `{key}`.
    Key,
}

/// Fewest digits of a number, 0 to 30.
pub type Width = usize;

/// Widest padding.
pub const WIDTH_MAX: Width = 30;

/// Why a template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template `{template}`: {problem}")]
pub struct TemplateError {
    /// The template as written.
    pub template: String,
    /// What is wrong with it.
    pub problem: TemplateProblem,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateProblem {
    /// Not one of ours.
    #[error(
        "`{{{0}}}` is not a placeholder; allowed are {{topic}}, {{topic[N]}}, {{partition}}, {{first}}, {{end}}, {{output}}, \
         {{generation}}, {{field.NAME}}, {{header.NAME}} and {{key}}; a literal brace is written twice"
    )]
    UnknownPlaceholder(String),
    /// One of ours, written wrongly.
    #[error("`{{{placeholder}}}`: {why}")]
    BadPlaceholder {
        /// Without its braces.
        placeholder: String,
        /// What is allowed.
        why: &'static str,
    },
    /// A brace without its other half.
    #[error("a lone `{0}`; write it twice to mean the character")]
    LoneBrace(char),
    /// A time directive that is unknown or not allowed.
    #[error("`{directive}` cannot be used: {why}")]
    BadDirective {
        /// As written.
        directive: String,
        /// The reason, and what to write instead.
        why: &'static str,
    },
    /// Text that some store or shell would change or hide.
    #[error(
        "the character {0:?} cannot be used; allowed are letters, digits and - _ . = + , : ; @ ! $ & ' ( ) % {{ }}"
    )]
    BadCharacter(char),
    /// `a//b`, `/a` or `a/`.
    #[error("an empty folder name: slashes stand between two names only")]
    EmptySegment,
    /// A name that is empty.
    #[error("a name cannot be empty")]
    EmptyName,
    /// A slash in a name.
    #[error("a name cannot contain `/`; folders belong in `path`")]
    SlashInName,
    /// A segment that starts with a dot: `.`, `..`, hidden files.
    #[error("a folder or name cannot start with `.`")]
    LeadingDot,
    /// `{first}` or `{end}` in a path.
    #[error("`{{{0}}}` belongs in `name`: a folder holds many batches")]
    OffsetInPath(&'static str),
    /// The zone is not in the IANA list.
    #[error("unknown time zone `{0}`; write an IANA name such as UTC or Europe/Berlin")]
    UnknownZone(String),
    /// The extension is not made of letters, digits and dots.
    #[error("the extension `{0}` is not made of letters, digits and inner dots")]
    BadExtension(String),
    /// Even with every value cut, too long for a store or file system.
    #[error("{what} could be {bytes} bytes long; at most {bytes_max} are safe in every store")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// How long it can get.
        bytes: usize,
        /// How long it may get.
        bytes_max: usize,
    },
}

impl Template {
    /// Reads a template. The same text always gives the same template, and whatever it accepts renders to segments
    /// that are not empty, hidden by a dot, or outside their folder.
    ///
    /// # Errors
    /// [`TemplateError`] with the first problem; nothing is guessed.
    pub fn parse(text: &str, kind: TemplateKind) -> Result<Self, TemplateError> {
        let result = Reader { rest: text, kind, segments: vec![Vec::new()] }.read();
        result.map_err(|problem| TemplateError { template: text.to_string(), problem })
    }

    /// Every piece, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.segments.iter().flatten()
    }
}

struct Reader<'t> {
    rest: &'t str,
    kind: TemplateKind,
    /// The last one is still being filled.
    segments: Vec<Vec<Piece>>,
}

impl Reader<'_> {
    fn read(mut self) -> Result<Template, TemplateProblem> {
        if self.rest.is_empty() {
            return match self.kind {
                TemplateKind::Path => Ok(Template { segments: Vec::new() }),
                TemplateKind::Name => Err(TemplateProblem::EmptyName),
            };
        }
        while let Some(next) = self.rest.chars().next() {
            match next {
                '{' | '}' if self.rest[1..].starts_with(next) => self.text(next, 2),
                '{' => self.placeholder()?,
                '}' => return Err(TemplateProblem::LoneBrace('}')),
                '%' if self.rest.starts_with("%%") => self.text('%', 2),
                '%' => self.directive()?,
                '/' => self.slash()?,
                _ if is_plain(next) => self.text(next, 1),
                _ => return Err(TemplateProblem::BadCharacter(next)),
            }
        }
        self.end_segment()?;
        Ok(Template { segments: self.segments })
    }

    fn text(&mut self, c: char, bytes: usize) {
        self.rest = &self.rest[bytes..];
        let segment = self.segment();
        if let Some(Piece::Text(text)) = segment.last_mut() {
            text.push(c);
        } else {
            segment.push(Piece::Text(c.to_string()));
        }
    }

    fn segment(&mut self) -> &mut Vec<Piece> {
        self.segments.last_mut().expect("a reader starts with one segment and only adds")
    }

    fn slash(&mut self) -> Result<(), TemplateProblem> {
        if self.kind == TemplateKind::Name {
            return Err(TemplateProblem::SlashInName);
        }
        self.end_segment()?;
        self.rest = &self.rest[1..];
        self.segments.push(Vec::new());
        Ok(())
    }

    fn end_segment(&mut self) -> Result<(), TemplateProblem> {
        match self.segment().first() {
            None => Err(TemplateProblem::EmptySegment),
            Some(Piece::Text(text)) if text.starts_with('.') => Err(TemplateProblem::LeadingDot),
            Some(Piece::Time(directive)) if directive.text.starts_with("%.") => Err(TemplateProblem::LeadingDot),
            Some(_) => Ok(()),
        }
    }

    fn directive(&mut self) -> Result<(), TemplateProblem> {
        let directive =
            Directive::parse(self.rest).map_err(|(directive, why)| TemplateProblem::BadDirective { directive, why })?;
        self.rest = &self.rest[directive.text.len()..];
        self.segment().push(Piece::Time(directive));
        Ok(())
    }

    fn placeholder(&mut self) -> Result<(), TemplateProblem> {
        let body = &self.rest[1..];
        let mut in_quotes = false;
        let end = body.find(|c| {
            in_quotes ^= c == '"';
            !in_quotes && matches!(c, '{' | '}')
        });
        let end = match end {
            Some(end) if body[end..].starts_with('}') => end,
            _ => return Err(TemplateProblem::LoneBrace('{')),
        };
        let piece = placeholder(&body[..end])?;
        if self.kind == TemplateKind::Path {
            match piece {
                Piece::First(_) => return Err(TemplateProblem::OffsetInPath("first")),
                Piece::End(_) => return Err(TemplateProblem::OffsetInPath("end")),
                _ => {}
            }
        }
        self.rest = &body[end + 1..];
        self.segment().push(piece);
        Ok(())
    }
}

/// Text that means itself everywhere. Not: space, `"`, `#`, `*`, `<`, `>`, `?`, `[`, `\`, `]`, `^`, `` ` ``, `|`, `~`.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.=+,:;@!$&'()".contains(c)
}

fn placeholder(body: &str) -> Result<Piece, TemplateProblem> {
    let bad = |why| Err(TemplateProblem::BadPlaceholder { placeholder: body.to_string(), why });
    if let Some(path) = body.strip_prefix("field.") {
        let (path, word) = match path.strip_suffix(']').and_then(|path| path.rsplit_once('[')) {
            Some((path, word)) => (path, Some(word)),
            None => (path, None),
        };
        return match (field_path(path), word.map(word_index)) {
            (Some(path), None) => Ok(Piece::Field(path)),
            (Some(path), Some(Some(word))) => Ok(Piece::FieldWord(path, word)),
            (_, Some(None)) => bad("write the number of a part of the field, from 0: {field.tag[1]}"),
            (None, _) => bad("write names separated by dots, and a name with a dot in quotes: {field.a.\"b.c\"}"),
        };
    }
    if let Some(name) = body.strip_prefix("header.") {
        return if name.is_empty() { bad("the header's name is missing") } else { Ok(Piece::Header(name.to_string())) };
    }
    if let Some(index) = body.strip_prefix("topic[").and_then(|rest| rest.strip_suffix(']')) {
        return match word_index(index) {
            Some(index) => Ok(Piece::TopicWord(index)),
            None => bad("write the number of a part of the topic, from 0: {topic[1]}"),
        };
    }
    let (name, width) = match body.split_once(':') {
        Some((name, width)) => (name, Some(width)),
        None => (body, None),
    };
    let number: fn(Width) -> Piece = match name {
        "partition" => Piece::Partition,
        "first" => Piece::First,
        "end" => Piece::End,
        "generation" => Piece::Generation,
        "topic" | "output" | "key" if width.is_some() => return bad("only numbers take a width"),
        "topic" => return Ok(Piece::Topic),
        "output" => return Ok(Piece::Output),
        "key" => return Ok(Piece::Key),
        _ => return Err(TemplateProblem::UnknownPlaceholder(body.to_string())),
    };
    match width {
        None => Ok(number(0)),
        Some(width) => match parse_width(width) {
            Some(width) => Ok(number(width)),
            None => bad("a width is a 0 and the number of digits, 1 to 30: {first:020}"),
        },
    }
}

/// The number of a part. A topic name has at most 249 characters, so at most 250 parts; more of a field is nobody's folder.
fn word_index(text: &str) -> Option<usize> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|index| digits && *index < 250)
}

fn parse_width(text: &str) -> Option<Width> {
    let digits = text.strip_prefix('0')?;
    let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    let width: Width = if plain { digits.parse().ok()? } else { return None };
    (width <= WIDTH_MAX).then_some(width)
}

/// Splits `a."b.c".d` at the dots outside quotes. `None` where a name is empty or a quote stands wrongly.
fn field_path(text: &str) -> Option<Vec<String>> {
    let mut path = Vec::new();
    let mut rest = text;
    loop {
        let (name, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
        };
        if name.is_empty() || name.contains('"') {
            return None;
        }
        path.push(name.to_string());
        if behind.is_empty() {
            return Some(path);
        }
        rest = behind.strip_prefix('.')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::preset;
    use proptest::prelude::*;

    fn path(text: &str) -> Result<Template, TemplateProblem> {
        Template::parse(text, TemplateKind::Path).map_err(|error| error.problem)
    }

    fn name(text: &str) -> Result<Template, TemplateProblem> {
        Template::parse(text, TemplateKind::Name).map_err(|error| error.problem)
    }

    #[test]
    fn placeholders_are_read() {
        let table = [
            ("{topic}", Piece::Topic),
            ("{topic[0]}", Piece::TopicWord(0)),
            ("{topic[12]}", Piece::TopicWord(12)),
            ("{partition}", Piece::Partition(0)),
            ("{partition:05}", Piece::Partition(5)),
            ("{first:020}", Piece::First(20)),
            ("{end:030}", Piece::End(30)),
            ("{generation}", Piece::Generation(0)),
            ("{output}", Piece::Output),
            ("{key}", Piece::Key),
            ("{header.x.y z}", Piece::Header("x.y z".into())),
            ("{field.a}", Piece::Field(vec!["a".into()])),
            ("{field.a.b[2]}", Piece::FieldWord(vec!["a".into(), "b".into()], 2)),
            ("{field.\"a[2]\"}", Piece::Field(vec!["a[2]".into()])),
            ("{field.a.b}", Piece::Field(vec!["a".into(), "b".into()])),
            ("{field.\"a.b\".c d.\"}\"}", Piece::Field(vec!["a.b".into(), "c d".into(), "}".into()])),
            ("a{{b}}c%%", Piece::Text("a{b}c%".into())),
        ];
        for (text, piece) in table {
            assert_eq!(name(text).expect(text).segments, [[piece]], "{text}");
        }
    }

    #[test]
    fn paths_are_split_at_slashes() {
        assert_eq!(path("").unwrap().segments.len(), 0);
        let template = path("_dead/{topic}/dt=%Y-%m-%d").unwrap();
        let counts: Vec<usize> = template.segments.iter().map(Vec::len).collect();
        assert_eq!(counts, [1, 1, 6]);
    }

    #[test]
    fn presets_are_templates() {
        for preset_name in preset::NAMES {
            let preset = preset::preset(preset_name).unwrap();
            path(preset.path).expect(preset_name);
            name(preset.name).expect(preset_name);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let table = [
            (path("/a"), "empty folder name"),
            (path("a/"), "empty folder name"),
            (path("a//b"), "empty folder name"),
            (path("a/../b"), "start with `.`"),
            (path("./b"), "start with `.`"),
            (path("a/%.3f"), "start with `.`"),
            (path("a\\b"), "'\\\\'"),
            (path("a b"), "' '"),
            (path("é"), "'é'"),
            (path("a\n"), "'\\n'"),
            (path("{first}"), "belongs in `name`"),
            (path("x/{end:020}"), "belongs in `name`"),
            (name(""), "empty"),
            (name("a/b"), "cannot contain `/`"),
            (name("{foo}"), "not a placeholder"),
            (name("{}"), "not a placeholder"),
            (name("{Topic}"), "not a placeholder"),
            (name("{topic:05}"), "only numbers"),
            (name("{first:20}"), "a width is"),
            (name("{first:0}"), "a width is"),
            (name("{first:}"), "a width is"),
            (name("{first:031}"), "a width is"),
            (name("{first:0x}"), "a width is"),
            (name("{first:0+5}"), "a width is"),
            (name("{topic[]}"), "the number of a part"),
            (name("{topic[-1]}"), "the number of a part"),
            (name("{topic[+1]}"), "the number of a part"),
            (name("{topic[250]}"), "the number of a part"),
            (name("{field.a[]}"), "the number of a part"),
            (name("{field.a[x]}"), "the number of a part"),
            (name("{field.[1]}"), "write names"),
            (name("{field.}"), "separated by dots"),
            (name("{field.a..b}"), "separated by dots"),
            (name("{field.a\"b}\"}"), "separated by dots"),
            (name("{header.}"), "missing"),
            (name("{topic"), "lone `{`"),
            (name("{topic{x}"), "lone `{`"),
            (name("topic}"), "lone `}`"),
            (name("%c"), "locale"),
            (name("%Q"), "not one of"),
            (name("100%"), "needs a letter"),
        ];
        for (result, part) in table {
            let message = result.expect_err(part).to_string();
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
        let error = Template::parse("a//b", TemplateKind::Path).unwrap_err();
        assert_eq!(error.to_string(), "template `a//b`: an empty folder name: slashes stand between two names only");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z{}%/.:0\"\\[\\]é]{0,30}") {
            for kind in [TemplateKind::Path, TemplateKind::Name] {
                if let Ok(template) = Template::parse(&text, kind) {
                    prop_assert!(template.segments.iter().all(|segment| !segment.is_empty()));
                }
            }
        }
    }
}
