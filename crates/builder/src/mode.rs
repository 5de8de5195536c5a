//! `--chmod`: octal, or symbolic as in chmod(1).

/// What to do with a file's mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// It becomes this.
    Octal(u32),
    /// It changes, clause by clause.
    Symbolic(Vec<Clause>),
}

/// One of `u+rw`, `go=`, `a-X`, `g=u`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clause {
    /// Whose bits, in a mode: `0o700`, `0o070`, `0o007`, with set-id and sticky bits.
    who: u32,
    operator: char,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// `rwxst` for everybody; with `X`, `x` for directories and what has it already.
    Bits { bits: u32, or_executable: bool },
    /// As the user's, group's or others' are: how far they are to the left.
    Like(u32),
}

impl Mode {
    /// Reads the flag's value. The error is BuildKit's text where it looks like a number.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let number = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return number.map(Self::Octal).ok_or_else(|| {
                format!(
                    "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
                )
            });
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            clause(part, &mut clauses).ok_or_else(|| format!("invalid chmod parameter: '{text}'"))?;
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The mode that a file of this mode gets.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let clauses = match self {
            Self::Octal(mode) => return *mode,
            Self::Symbolic(clauses) => clauses,
        };
        let mut mode = mode & 0o7777;
        for clause in clauses {
            let bits = match clause.what {
                What::Bits { bits, or_executable } => {
                    bits | if or_executable && (is_directory || mode & 0o111 != 0) { 0o111 } else { 0 }
                }
                What::Like(shift) => ((mode >> shift) & 7) * 0o111,
            };
            let bits = bits & clause.who;
            mode = match clause.operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => (mode & !clause.who) | bits,
            };
        }
        mode
    }
}

/// `who` and one or more of an operator with what follows.
fn clause(text: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let end = text.find(['+', '-', '='])?;
    let mut who = 0;
    for letter in text[..end].chars() {
        who |= match letter {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o7777;
    }
    let mut rest = &text[end..];
    while let Some(operator) = rest.chars().next() {
        let after = &rest[1..];
        let end = after.find(['+', '-', '=']).unwrap_or(after.len());
        clauses.push(Clause { who, operator, what: what(&after[..end])? });
        rest = &after[end..];
    }
    Some(())
}

fn what(text: &str) -> Option<What> {
    match text {
        "u" => return Some(What::Like(6)),
        "g" => return Some(What::Like(3)),
        "o" => return Some(What::Like(0)),
        _ => {}
    }
    let (mut bits, mut or_executable) = (0, false);
    for letter in text.chars() {
        match letter {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            's' => bits |= 0o6000,
            't' => bits |= 0o1000,
            'X' => or_executable = true,
            _ => return None,
        }
    }
    Some(What::Bits { bits, or_executable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, file: (u32, u32), directory: (u32, u32)) {
        let mode = Mode::parse(text).expect(text);
        assert_eq!(format!("{:o}", mode.apply(file.0, false)), format!("{:o}", file.1), "{text} of a file");
        assert_eq!(
            format!("{:o}", mode.apply(directory.0, true)),
            format!("{:o}", directory.1),
            "{text} of a directory"
        );
    }

    #[test]
    fn octal() {
        check("0755", (0o644, 0o755), (0o700, 0o755));
        check("4711", (0o644, 0o4711), (0o700, 0o4711));
    }

    #[test]
    fn symbolic() {
        check("u+x", (0o644, 0o744), (0o644, 0o744));
        check("go-rwx", (0o755, 0o700), (0o755, 0o700));
        check("a=rX", (0o640, 0o444), (0o700, 0o555));
        check("+X", (0o744, 0o755), (0o600, 0o711));
        check("g=u,o=", (0o754, 0o770), (0o754, 0o770));
        check("u=rwx,go=u-w", (0o600, 0o755), (0o600, 0o755));
        check("u+s,+t", (0o755, 0o5755), (0o755, 0o5755));
        check("ug+rw,o+r", (0o600, 0o664), (0o600, 0o664));
    }

    #[test]
    fn mistakes() {
        for text in ["", "x", "u", "u+q", "z+x", "u+x,", "u+g+ug", "rwx"] {
            assert!(Mode::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Mode::parse("999").expect_err("not octal"),
            "invalid chmod parameter: '999'. it should be octal string and between 0 and 07777"
        );
    }
}
