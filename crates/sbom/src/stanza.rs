//! Paragraphs of `Name: value` lines, as Debian and Python write them.

/// The values of these names in a paragraph, the first of each; folded lines are of no interest. Names differ not by case.
pub(crate) fn fields<'a, const N: usize>(
    lines: impl Iterator<Item = &'a str>,
    names: [&str; N],
) -> [&'a str; N] {
    let mut found = [None; N];
    for line in lines {
        if line.starts_with([' ', '\t']) {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        for (place, wanted) in found.iter_mut().zip(names) {
            if wanted.eq_ignore_ascii_case(name) && place.is_none() {
                *place = Some(value.trim());
            }
        }
    }
    found.map(Option::unwrap_or_default)
}

/// The paragraphs of a text.
pub(crate) fn paragraphs(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut paragraph = Vec::new();
        for line in lines.by_ref() {
            match line.trim_end().is_empty() {
                true if paragraph.is_empty() => {}
                true => return Some(paragraph),
                false => paragraph.push(line),
            }
        }
        (!paragraph.is_empty()).then_some(paragraph)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_and_their_fields() {
        let text = "\n\nA: 1\n more: 2\nb : x\nB:  3 \n\r\n\nA:\nB: z";
        let found: Vec<[&str; 2]> =
            paragraphs(text).map(|lines| fields(lines.into_iter(), ["a", "b"])).collect();
        assert_eq!(found, [["1", "3"], ["", "z"]]);
    }
}
