//! What `--output`, `--cache-from`, `--secret` and their like have in common: `key=value` pairs with commas between them.

use crate::run_flags::mounts::split_csv;

/// The pairs of a value, keys in lower case. `None` for a value without any `=`: it has a meaning of its own in each flag.
pub(super) fn pairs(text: &str) -> Result<Option<Vec<(String, String)>>, String> {
    let fields = split_csv(text)?;
    if let [field] = &fields[..]
        && !field.contains('=')
    {
        return Ok(None);
    }
    let mut pairs = Vec::with_capacity(fields.len());
    for field in fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        };
        pairs.push((key.trim().to_lowercase(), value.to_owned()));
    }
    Ok(Some(pairs))
}

/// Takes the value of a key out of the pairs; the last one counts.
pub(super) fn take(pairs: &mut Vec<(String, String)>, key: &str) -> Option<String> {
    let value = pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    pairs.retain(|(name, _)| name != key);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read() {
        let of = |text: &str| pairs(text);
        assert_eq!(of("plain"), Ok(None));
        let expected = [("type", "local"), ("dest", "a,b"), ("x", "y=z")];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        assert_eq!(of("TYPE=local,\"dest=a,b\",x=y=z"), Ok(Some(expected)));
        assert_eq!(of("type=a,b"), Err("invalid field 'b' must be a key=value pair".to_owned()));
        of("").unwrap_err();
        let mut found = of("a=1,b=2,a=3").unwrap().unwrap();
        assert_eq!(take(&mut found, "a").as_deref(), Some("3"));
        assert_eq!((found.len(), take(&mut found, "c")), (1, None));
    }
}
