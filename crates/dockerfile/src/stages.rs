//! Which stage needs which.
//!
//! A `FROM` may name a stage above it; a `COPY --from` or a mount any stage, but one below has nothing to give yet, and a circle is
//! an error. What the target doesn't need, directly or by others, is not built.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{Command, Dockerfile};
use crate::scope::Globals;
use crate::word::{Lexer, Nothing};
use crate::{DockerfileError, Span, suggest};

/// What a stage starts with, or where files come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nothing.
    Scratch,
    /// A stage, by its number from 0.
    Stage(usize),
    /// An image, by its name.
    Image(String),
    /// A context that the client gave a name.
    Context(String),
}

/// A stage, with its names resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What it starts with. A named context may stand in the place of the whole stage: then it is that, and nothing is executed.
    pub base: Origin,
    /// The platform that its `FROM` asks for.
    pub platform: Option<String>,
    /// A named context replaces the stage.
    pub is_replaced: bool,
    /// Where its instructions take files from: the instruction's number, and what it names in its order.
    pub uses: Vec<(usize, Vec<Origin>)>,
}

/// All stages, and which are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// The stages in their order.
    pub stages: Vec<Resolved>,
    /// The one to build.
    pub target: usize,
    /// What it needs, itself included, in their order.
    pub needed: BTreeSet<usize>,
}

/// What the file alone doesn't tell.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// `--target`; the last stage if none.
    pub target: Option<&'a str>,
    /// Names of `--build-context`.
    pub contexts: &'a BTreeSet<String>,
    /// Every stage counts as needed: for checks.
    pub all: bool,
}

/// Resolves the stages of a file.
pub fn resolve(
    file: &Dockerfile,
    globals: &Globals,
    options: &Options<'_>,
) -> Result<Graph, DockerfileError> {
    let resolver = Resolver { file, globals, options, lexer: Lexer::new(file.directives.escape) };
    let mut names = BTreeMap::new();
    let mut stages = Vec::new();
    for (index, stage) in file.stages.iter().enumerate() {
        stages.push(resolver.base(index, &names)?);
        if let Some(id) = stage.id() {
            names.insert(id, index);
        }
    }
    for (index, resolved) in stages.iter_mut().enumerate() {
        resolved.uses = if resolved.is_replaced { Vec::new() } else { resolver.uses(index, &names)? };
    }
    no_circle(file, &stages)?;
    let target = match options.target {
        None => stages.len() - 1,
        Some(wanted) => *names.get(&wanted.to_lowercase()).ok_or_else(|| {
            let hint = suggest::hint(wanted, names.keys().map(String::as_str));
            DockerfileError::new(Span::default(), format!("target stage {wanted:?} could not be found{hint}"))
        })?,
    };
    let needed = if options.all { (0..stages.len()).collect() } else { needed(&stages, target) };
    in_order(file, &stages, &needed)?;
    Ok(Graph { stages, target, needed })
}

struct Resolver<'a> {
    file: &'a Dockerfile,
    globals: &'a Globals,
    options: &'a Options<'a>,
    lexer: Lexer,
}

impl Resolver<'_> {
    fn base(&self, index: usize, names: &BTreeMap<String, usize>) -> Result<Resolved, DockerfileError> {
        let stage = &self.file.stages[index];
        let fail = |message: String| DockerfileError::new(stage.span, message);
        let expand =
            |text: &str| self.lexer.expand(text, &self.globals.values).map(|expansion| expansion.text);
        let name = expand(&stage.base).map_err(fail)?;
        if name.is_empty() {
            return Err(fail(format!("base name ({}) should not be blank", stage.base)));
        }
        let platform = match &stage.platform {
            None => None,
            Some(text) => {
                let value = expand(text).map_err(|message| {
                    fail(format!("failed to process arguments for platform {text}: {message}"))
                })?;
                if value.is_empty() {
                    return Err(fail(format!(
                        "empty platform value from expression {text}{}",
                        self.meant(text)
                    )));
                }
                value
                    .parse::<palan_oci::Platform>()
                    .map_err(|error| fail(format!("failed to parse platform {text}: {error}")))?;
                Some(value)
            }
        };
        let replaced = stage.id().filter(|id| self.options.contexts.contains(id));
        let is_replaced = replaced.is_some();
        let base = match replaced {
            Some(id) => Origin::Context(id),
            None => self.origin(&name, names.get(&name).copied()),
        };
        Ok(Resolved { base, platform, is_replaced, uses: Vec::new() })
    }

    /// The variable that was perhaps meant by one that isn't set.
    fn meant(&self, text: &str) -> String {
        let expansion = self.lexer.expand(text, &self.globals.values).unwrap_or_default();
        let known = || self.globals.values.keys().map(String::as_str);
        expansion
            .unmatched
            .iter()
            .map(|name| suggest::hint(name, known()))
            .find(|hint| !hint.is_empty())
            .unwrap_or_default()
    }

    fn origin(&self, name: &str, stage: Option<usize>) -> Origin {
        match stage {
            Some(index) => Origin::Stage(index),
            None if name.eq_ignore_ascii_case("scratch") => Origin::Scratch,
            None if self.options.contexts.contains(name) => Origin::Context(name.to_owned()),
            None => Origin::Image(name.to_owned()),
        }
    }

    fn uses(
        &self,
        index: usize,
        names: &BTreeMap<String, usize>,
    ) -> Result<Vec<(usize, Vec<Origin>)>, DockerfileError> {
        let by_name = |name: &str| self.origin(name, names.get(&name.to_lowercase()).copied());
        let mut uses = Vec::new();
        for (number, instruction) in self.file.stages[index].instructions.iter().enumerate() {
            let fail = |message: String| DockerfileError::new(instruction.span, message);
            match &instruction.command {
                Command::Copy { from: Some(from), .. } => {
                    let plain = self.lexer.expand(from, &Nothing).map_err(fail)?;
                    if plain.text != *from {
                        return Err(fail("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround".to_owned()));
                    }
                    let origin = match from.parse::<usize>() {
                        Ok(stage) if stage < self.file.stages.len() => Origin::Stage(stage),
                        Ok(stage) => return Err(fail(format!("invalid stage index {stage}"))),
                        Err(_) => by_name(from),
                    };
                    uses.push((number, vec![origin]));
                }
                Command::Run(run) => {
                    let origins: Vec<Origin> =
                        run.mounts.iter().filter_map(|mount| mount.from()).map(by_name).collect();
                    if !origins.is_empty() {
                        uses.push((number, origins));
                    }
                }
                _ => {}
            }
        }
        Ok(uses)
    }
}

impl Resolved {
    /// The stages that it needs, and the instruction that says so; the `FROM` if none.
    fn needs(&self) -> impl Iterator<Item = (usize, Option<usize>)> {
        let base = match self.base {
            Origin::Stage(stage) => Some((stage, None)),
            _ => None,
        };
        let uses = self.uses.iter().flat_map(|(number, origins)| {
            origins.iter().filter_map(|origin| match origin {
                Origin::Stage(stage) => Some((*stage, Some(*number))),
                _ => None,
            })
        });
        base.into_iter().chain(uses)
    }
}

fn span_of(file: &Dockerfile, stage: usize, instruction: Option<usize>) -> Span {
    let stage = &file.stages[stage];
    instruction.map_or(stage.span, |number| stage.instructions[number].span)
}

fn title(file: &Dockerfile, stage: usize) -> String {
    file.stages[stage].id().unwrap_or_else(|| format!("stage-{stage}"))
}

/// Depth first, without recursion: a file may have thousands of stages.
fn no_circle(file: &Dockerfile, stages: &[Resolved]) -> Result<(), DockerfileError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; stages.len()];
    for start in 0..stages.len() {
        if marks[start] != Mark::New {
            continue;
        }
        let mut path = vec![(start, stages[start].needs().collect::<Vec<_>>().into_iter())];
        marks[start] = Mark::Open;
        while let Some((stage, needs)) = path.last_mut() {
            let stage = *stage;
            match needs.next() {
                None => {
                    marks[stage] = Mark::Done;
                    path.pop();
                }
                Some((other, instruction)) if marks[other] == Mark::Open => {
                    let message = format!("circular dependency detected on stage: {}", title(file, other));
                    return Err(DockerfileError::new(span_of(file, stage, instruction), message));
                }
                Some((other, _)) if marks[other] == Mark::New => {
                    marks[other] = Mark::Open;
                    path.push((other, stages[other].needs().collect::<Vec<_>>().into_iter()));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

fn needed(stages: &[Resolved], target: usize) -> BTreeSet<usize> {
    let mut needed = BTreeSet::from([target]);
    let mut open = vec![target];
    while let Some(stage) = open.pop() {
        for (other, _) in stages[stage].needs() {
            if needed.insert(other) {
                open.push(other);
            }
        }
    }
    needed
}

/// Nothing can be taken from a stage that comes later.
fn in_order(file: &Dockerfile, stages: &[Resolved], needed: &BTreeSet<usize>) -> Result<(), DockerfileError> {
    for index in needed {
        for (other, instruction) in stages[*index].needs() {
            if other < *index {
                continue;
            }
            let span = span_of(file, *index, instruction);
            let (from, to) = (title(file, other), title(file, *index));
            let message = match instruction.map(|number| &file.stages[*index].instructions[number].command) {
                Some(Command::Run(_)) => {
                    format!(
                        "cannot mount from stage {from:?}, stage needs to be defined before current command"
                    )
                }
                _ => format!(
                    "cannot copy from stage {from:?}, it needs to be defined before current stage {to:?}"
                ),
            };
            return Err(DockerfileError::new(span, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
