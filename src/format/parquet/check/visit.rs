//! The walk's way through serde: what each object, array and value of a payload is handed to.

use super::{Field, Fields, Kind, Lead, Place, Refused, Seen, Step, Walk, first_repeated};
use crate::format::object::Text;
use crate::format::parquet::row::{VALUE, push_bytes};
use crate::format::parquet::scalar::Scalar;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::Ordering;

/// Ends serde's reading; the reason is the walk's.
#[cold]
fn stop<E: serde::de::Error>(_: Refused) -> E {
    E::custom("refused")
}

/// Members of an object: each one's column or `_rest`.
pub(super) struct Members<'w, 'r, 's, 'p> {
    pub(super) walk: &'w mut Walk<'r>,
    pub(super) fields: &'s Fields,
    pub(super) place: Option<&'p Place<'p>>,
}

impl<'de> Visitor<'de> for Members<'_, '_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { walk, fields, place } = self;
        let mut seen = Seen::default();
        let mut expected = 0;
        let mut others: Vec<Cow<'de, str>> = Vec::new();
        while let Some(name) = map.next_key_seed(Name { fields, expected })? {
            let index = match name {
                Found::Column(index) => index,
                Found::Other(name) => {
                    let value: &'de RawValue = map.next_value()?;
                    walk.put_aside(place, &name, value.get()).map_err(stop)?;
                    others.push(name);
                    continue;
                }
            };
            expected = index + 1;
            let field = &fields.list[index];
            let step = Step::Name(&field.name);
            if !seen.insert(index) {
                map.next_value::<IgnoredAny>()?;
                return Err(stop(walk.refuse(place, step, "the field is there twice")));
            }
            let lead = Lead::Field(fields.first + index);
            map.next_value_seed(Value { walk: &mut *walk, field, parent: place, step, lead })?;
        }
        if let Some(name) = first_repeated(&mut others) {
            return Err(stop(walk.refuse(place, Step::Name(&name), "the field is there twice")));
        }
        walk.check_required(fields, place, &seen).map_err(stop)
    }
}

/// Entries of a map.
pub(super) struct Entries<'w, 'r, 's, 'p> {
    pub(super) walk: &'w mut Walk<'r>,
    pub(super) values: &'s Field,
    pub(super) place: &'p Place<'p>,
}

impl<'de> Visitor<'de> for Entries<'_, '_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { walk, values, place } = self;
        let mut names: Vec<Cow<'de, str>> = Vec::new();
        while let Some(Text(name)) = map.next_key()? {
            let (parent, step) = (Some(place), Step::Name(&name));
            walk.element(values, place, step).map_err(stop)?;
            walk.rows.push(VALUE);
            push_bytes(name.as_bytes(), walk.rows);
            map.next_value_seed(Value { walk: &mut *walk, field: values, parent, step, lead: Lead::Element })?;
            names.push(name);
        }
        match first_repeated(&mut names) {
            Some(name) => Err(stop(walk.refuse(Some(place), Step::Name(&name), "the key is there twice"))),
            None => Ok(()),
        }
    }
}

/// Elements of a list.
pub(super) struct Elements<'w, 'r, 's, 'p> {
    pub(super) walk: &'w mut Walk<'r>,
    pub(super) element: &'s Field,
    pub(super) place: &'p Place<'p>,
}

impl<'de> Visitor<'de> for Elements<'_, '_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { walk, element, place } = self;
        let mut index = 0;
        loop {
            let (parent, step) = (Some(place), Step::Index(index));
            let value = Value { walk: &mut *walk, field: element, parent, step, lead: Lead::Element };
            if list.next_element_seed(value)?.is_none() {
                return Ok(());
            }
            walk.element(element, place, step).map_err(stop)?;
            index += 1;
        }
    }
}

/// One value on its way into `field`.
struct Value<'w, 'r, 's, 'p> {
    walk: &'w mut Walk<'r>,
    field: &'s Field,
    parent: Option<&'p Place<'p>>,
    step: Step<'p>,
    lead: Lead,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_, '_, '_> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        let is_typed = match &self.field.kind {
            _ if self.walk.as_text => false,
            Kind::Scalar(Scalar::String) => !self.field.has_others.load(Ordering::Relaxed),
            // Numbers are taken as text, because only that is exact.
            Kind::Scalar(_) => false,
            Kind::Struct(_) | Kind::List(_) | Kind::Map(_) => true,
        };
        if is_typed {
            return reader.deserialize_any(self);
        }
        let text = <&'de RawValue>::deserialize(reader)?.get();
        self.walk.value(self.field, self.parent, self.step, self.lead, text).map_err(stop)
    }
}

impl Value<'_, '_, '_, '_> {
    /// Another value than the column's own: the second walk decides.
    #[cold]
    fn other<E: serde::de::Error>(self) -> Result<(), E> {
        if matches!(self.field.kind, Kind::Scalar(_)) {
            self.field.has_others.store(true, Ordering::Relaxed);
        }
        Err(stop(Refused))
    }
}

impl<'de> Visitor<'de> for Value<'_, '_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the column's type")
    }

    #[inline]
    fn visit_str<E: serde::de::Error>(self, characters: &str) -> Result<(), E> {
        if !matches!(self.field.kind, Kind::Scalar(Scalar::String)) {
            return self.other();
        }
        self.lead.value(self.walk.rows);
        push_bytes(characters.as_bytes(), self.walk.rows);
        Ok(())
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.walk.null(self.field, self.parent, self.step, self.lead).map_err(stop)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let place = Place::new(self.parent, self.step);
        match &self.field.kind {
            Kind::Struct(fields) => {
                self.lead.value(self.walk.rows);
                Members { walk: &mut *self.walk, fields, place: Some(&place) }.visit_map(map)?;
            }
            Kind::Map(values) => {
                self.lead.value(self.walk.rows);
                Entries { walk: &mut *self.walk, values, place: &place }.visit_map(map)?;
            }
            Kind::Scalar(_) | Kind::List(_) => return self.other(),
        }
        self.walk.leave(&place);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        let Kind::List(element) = &self.field.kind else { return self.other() };
        let place = Place::new(self.parent, self.step);
        self.lead.value(self.walk.rows);
        Elements { walk: &mut *self.walk, element, place: &place }.visit_seq(list)?;
        self.walk.leave(&place);
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.other()
    }
    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.other()
    }
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.other()
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.other()
    }
}

/// The name of a member, looked up before it is copied.
struct Name<'s> {
    fields: &'s Fields,
    expected: usize,
}

enum Found<'de> {
    Column(usize),
    Other(Cow<'de, str>),
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Found<'de>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Found<'de>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name<'_> {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    #[inline]
    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Found<'de>, E> {
        let other = || Found::Other(Cow::Borrowed(name));
        Ok(self.fields.position(name, self.expected).map_or_else(other, Found::Column))
    }
    fn visit_str<E>(self, name: &str) -> Result<Found<'de>, E> {
        let other = || Found::Other(Cow::Owned(name.to_string()));
        Ok(self.fields.position(name, self.expected).map_or_else(other, Found::Column))
    }
}
