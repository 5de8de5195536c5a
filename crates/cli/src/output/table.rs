//! Columns aligned by tabs, with the rules of Go's text/tabwriter: a column is a run of neighbouring lines that all have
//! a cell there, a cell is what a tab ends, and what follows a line's last tab belongs to no column.

/// How columns are set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// No column is narrower.
    pub(crate) minimum: usize,
    /// Blanks behind the widest cell of a column.
    pub(crate) padding: usize,
}

/// The layout of Docker's lists.
pub(crate) const LIST: Layout = Layout { minimum: 10, padding: 3 };

/// Aligns a text of lines whose cells are separated by tabs.
pub(crate) fn align(text: &str, layout: Layout) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut aligned = String::with_capacity(text.len() * 2);
    block(&lines, layout, &mut Vec::new(), &mut aligned);
    // The last line had no line break behind it.
    aligned.pop();
    aligned
}

/// Sets the lines from column `widths.len()` on; the columns before have these widths in all of `lines`.
fn block(lines: &[Vec<&str>], layout: Layout, widths: &mut Vec<usize>, aligned: &mut String) {
    let column = widths.len();
    let has_cell = |line: &Vec<&str>| column + 1 < line.len();
    let mut start = 0;
    while start < lines.len() {
        let with_cell = has_cell(&lines[start]);
        let end = lines[start..]
            .iter()
            .position(|line| has_cell(line) != with_cell)
            .map_or(lines.len(), |length| start + length);
        let run = &lines[start..end];
        if with_cell {
            let widest = run.iter().map(|line| width(line[column]) + layout.padding).max().unwrap_or(0);
            widths.push(widest.max(layout.minimum));
            block(run, layout, widths, aligned);
            widths.pop();
        } else {
            run.iter().for_each(|line| write_line(line, widths, aligned));
        }
        start = end;
    }
}

fn write_line(line: &[&str], widths: &[usize], aligned: &mut String) {
    for (index, cell) in line.iter().enumerate() {
        aligned.push_str(cell);
        if let Some(column) = widths.get(index) {
            aligned.extend(std::iter::repeat_n(' ', column.saturating_sub(width(cell))));
        }
    }
    aligned.push('\n');
}

/// How many terminal columns a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// 2 for the wide characters of East Asian scripts and emoji, 1 for all else.
pub(crate) fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = "CONTAINER ID\tIMAGE\tNAMES\n0123456789ab\tdebian:bookworm\tone\n";
        assert_eq!(
            align(text, LIST),
            "CONTAINER ID   IMAGE             NAMES\n0123456789ab   debian:bookworm   one\n"
        );
    }

    #[test]
    fn a_line_without_a_cell_ends_a_column() {
        let layout = Layout { minimum: 0, padding: 1 };
        assert_eq!(align("a\tb\nlong one\nccc\td", layout), "a b\nlong one\nccc d");
        assert_eq!(align("x\t\tz\nyy\tw\tz\n", layout), "x    z\nyy w z\n");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(align("世\tx\nabc\tx\n", Layout { minimum: 0, padding: 1 }), "世  x\nabc x\n");
    }
}
