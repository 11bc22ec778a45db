//! A record as JSON and back, by the fields that its format describes.

use serde_json::{Map, Value};

use crate::formats::{Format, Reading, Shape};
use crate::text::{hex_of, number_of, unhex};

/// The name of what no field has: the record's other bits, in hex, with the fields' own as zeroes.
const OTHER: &str = "other";

/// What the record says; fields with a dot in their names are objects.
///
/// That is what the library reads: reserved bits are ignored, and so is what the record itself declares invalid.
pub(crate) fn decode(format: &Format, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let record = reading(format, bytes)?;
    let mut fields = Map::new();
    let mut rest = record.clone();
    for field in shape_of(format, &record).fields {
        if let Some(value) = field.get(&record) {
            field.clear(&mut rest);
            insert(&mut fields, field.name, value);
        }
    }
    if rest.iter().any(|byte| *byte != 0) {
        insert(&mut fields, OTHER, hex_of(&rest).into());
    }
    Ok(fields)
}

/// The bytes of the record that says so. Fields that are not named are 0.
pub(crate) fn encode(format: &Format, value: &Value) -> Result<Vec<u8>, String> {
    let given = flat(value)?;
    let shape = shape_for(format, &given)?;
    let mut record = match given.iter().find(|(name, _)| name == OTHER) {
        Some((_, value)) => other(format, value)?,
        None => vec![0; format.size],
    };
    for (name, _) in given.iter().filter(|(name, _)| name != OTHER) {
        check_name(format, shape, name)?;
    }
    // In the order of the fields: what is inside of a record depends on what is in front of it.
    for field in shape.fields {
        let named = given.iter().find(|(name, _)| name == field.name).map(|(_, value)| (*value).clone());
        let tag = shape.tags.iter().find(|(name, _)| *name == field.name).map(|(_, tag)| (*tag).into());
        let Some(value) = named.or(tag) else { continue };
        if field.is_set(&record) {
            return Err(format!("{OTHER} has bits of {}", field.name));
        }
        field.put(&value, &mut record).map_err(|error| format!("{} {error}", field.name))?;
    }
    match (format.read)(&record) {
        Reading::Bytes(bytes) if bytes == record => Ok(bytes),
        Reading::Bytes(bytes) => Err(difference(format, shape, &record, &bytes)),
        Reading::Refused(error) | Reading::Unsendable(error) => Err(error),
    }
}

/// The record as a line for people, with as many of its decoded `fields` as there are.
pub(crate) fn pretty(format: &Format, bytes: &[u8], fields: &Map<String, Value>) -> String {
    let shape = shape_of(format, bytes);
    let mut line = format.name.to_owned();
    if !shape.name.is_empty() {
        line += " ";
        line += shape.name;
    }
    for field in shape.fields {
        let Some(value) = get(fields, field.name) else { continue };
        line += &format!(" {}={}", field.name, shown(value));
        if let (Some(meaning), Some(number)) = (field.meaning, value.as_u64()) {
            let meaning = meaning(number);
            if !meaning.is_empty() {
                line += &format!(" ({meaning})");
            }
        }
    }
    if let Some(other) = fields.get(OTHER) {
        line += &format!(" {OTHER}={}", shown(other));
    }
    if let Some(remark) = format.remark.and_then(|remark| remark(bytes)) {
        line += &format!(": {remark}");
    }
    line
}

/// The bytes as the library writes them; as they are, where it never would.
fn reading(format: &Format, bytes: &[u8]) -> Result<Vec<u8>, String> {
    if bytes.len() != format.size {
        return Err(format!("{} bytes where the record has {}", bytes.len(), format.size));
    }
    match (format.read)(bytes) {
        Reading::Bytes(bytes) => Ok(bytes),
        Reading::Unsendable(_) => Ok(bytes.to_vec()),
        Reading::Refused(error) => Err(error),
    }
}

fn shape_of(format: &Format, record: &[u8]) -> &'static Shape {
    let says = |shape: &Shape, name: &str, tag: u64| {
        shape.fields.iter().any(|field| field.name == name && field.number(record) == tag)
    };
    pick(format, |shape, name, tag| says(shape, name, tag))
}

/// The first shape all of whose tags are `said`; the last one has none.
fn pick(format: &Format, said: impl Fn(&Shape, &str, u64) -> bool) -> &'static Shape {
    let fits = |shape: &&Shape| shape.tags.iter().all(|(name, tag)| said(shape, name, *tag));
    format.shapes.iter().find(fits).expect("the last shape has no tags")
}

/// The shape that the fields are of. Tags may be left out where there is one known kind only.
fn shape_for(format: &Format, given: &[(String, &Value)]) -> Result<&'static Shape, String> {
    let mut tags = Vec::new();
    for (name, _) in format.shapes.iter().flat_map(|shape| shape.tags) {
        match given.iter().find(|(given, _)| given == name) {
            Some((_, value)) => {
                tags.push((*name, number_of(value).map_err(|error| format!("{name} {error}"))?))
            }
            None if format.shapes.len() > 2 => {
                return Err(format!("{name} is missing: it tells the kind of record"));
            }
            None => {}
        }
    }
    Ok(pick(format, |_, name, tag| tags.iter().all(|(given, value)| *given != name || *value == tag)))
}

/// The names that objects within objects have with dots, and their values.
fn flat(value: &Value) -> Result<Vec<(String, &Value)>, String> {
    let object = value.as_object().ok_or_else(|| format!("is {value}, not an object"))?;
    let mut fields = Vec::new();
    for (name, value) in object {
        match value {
            Value::Object(inner) if name == "header" => {
                fields.extend(inner.iter().map(|(inner, value)| (format!("{name}.{inner}"), value)));
            }
            _ => fields.push((name.clone(), value)),
        }
    }
    Ok(fields)
}

fn insert(fields: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        Some((outer, inner)) => {
            let outer = fields.entry(outer).or_insert_with(|| Map::new().into());
            outer.as_object_mut().expect("an object of fields").insert(inner.to_owned(), value);
        }
        None => {
            fields.insert(name.to_owned(), value);
        }
    }
}

fn get<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    match name.split_once('.') {
        Some((outer, inner)) => fields.get(outer)?.get(inner),
        None => fields.get(name),
    }
}

/// Refuses a name that no field has.
fn check_name(format: &Format, shape: &Shape, name: &str) -> Result<(), String> {
    if shape.fields.iter().any(|field| field.name == name) {
        return Ok(());
    }
    let names: Vec<_> = shape.fields.iter().map(|field| field.name).collect();
    let kind = if shape.name.is_empty() { String::new() } else { format!(" {}", shape.name) };
    Err(format!("{}{kind} has no field {name}; it has {}, {OTHER}", format.name, names.join(", ")))
}

fn other(format: &Format, value: &Value) -> Result<Vec<u8>, String> {
    let text = value.as_str().ok_or_else(|| format!("{OTHER} is {value}, not hex"))?;
    let bytes = unhex(text).map_err(|error| format!("{OTHER} {error}"))?;
    if bytes.len() == format.size {
        Ok(bytes)
    } else {
        Err(format!("{OTHER} has {} bytes, and the record {}", bytes.len(), format.size))
    }
}

/// What the library does not keep of a record.
fn difference(format: &Format, shape: &Shape, given: &[u8], kept: &[u8]) -> String {
    let changed = shape.fields.iter().find(|field| field.get(given) != field.get(kept));
    match changed {
        Some(field) => {
            let [given, kept] = [given, kept]
                .map(|record| field.get(record).map_or("other".to_owned(), |value| shown(&value)));
            format!("{} cannot be {given} beside the other fields: a reader takes it for {kept}", field.name)
        }
        None => format!("{OTHER} has bits that are reserved in {}", format.name),
    }
}

/// A value for people: numbers above 9 in hex.
fn shown(value: &Value) -> String {
    match (value, value.as_u64()) {
        (_, Some(number)) if number > 9 => format!("{number:#x}"),
        (Value::Array(items), _) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        _ => value.to_string(),
    }
}
