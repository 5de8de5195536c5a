//! Whole builds, played to each view.

use std::time::Duration;

use super::model::{Log, Status, Vertex, Warning};
use super::*;

/// So many milliseconds after the build began.
fn at(milliseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_millis(milliseconds)
}

/// A step, from a time to a time.
fn vertex(digest: &str, name: &str, from: Option<u64>, to: Option<u64>) -> Update {
    let vertex = Vertex {
        digest: digest.to_owned(),
        name: name.to_owned(),
        started: from.map(at),
        completed: to.map(at),
        ..Vertex::default()
    };
    Update { vertexes: vec![vertex], ..Update::default() }
}

fn with(mut update: Update, change: impl Fn(&mut Vertex)) -> Update {
    update.vertexes.iter_mut().for_each(change);
    update
}

fn log(digest: &str, milliseconds: u64, text: &str) -> Update {
    let (vertex, data) = (digest.to_owned(), text.as_bytes().to_vec());
    Update { logs: vec![Log { vertex, stream: 1, data, timestamp: at(milliseconds) }], ..Update::default() }
}

fn status(digest: &str, id: &str, current: i64, from: u64, to: Option<u64>) -> Update {
    let status = Status {
        id: id.to_owned(),
        vertex: digest.to_owned(),
        current,
        timestamp: Some(at(from)),
        started: Some(at(from)),
        completed: to.map(at),
        ..Status::default()
    };
    Update { statuses: vec![status], ..Update::default() }
}

/// A build of two stages, the second of which fails.
fn script() -> Vec<(u64, Update)> {
    const LOAD: &str = "[internal] load build definition from Dockerfile";
    vec![
        (0, vertex("load", LOAD, Some(0), None)),
        (10, status("load", "transferring dockerfile:", 156, 5, Some(30))),
        (40, vertex("load", LOAD, Some(0), Some(40))),
        (50, vertex("base", "[build 1/3] FROM docker.io/library/bb:latest", None, None)),
        (50, vertex("copy", "[build 2/3] COPY . /src", None, None)),
        (
            60,
            with(vertex("base", "[build 1/3] FROM docker.io/library/bb:latest", Some(60), Some(60)), |v| {
                v.cached = true
            }),
        ),
        (70, vertex("copy", "[build 2/3] COPY . /src", Some(70), None)),
        (80, vertex("run", "[test 1/1] RUN ./check && echo \"fine\"", Some(80), None)),
        (120, log("copy", 110, "half a ")),
        (130, log("run", 125, "first\n")),
        (180, log("copy", 180, "line\n")),
        (370, vertex("copy", "[build 2/3] COPY . /src", Some(70), Some(370))),
        (1500, log("run", 1400, "second\n")),
        (
            2080,
            with(vertex("run", "[test 1/1] RUN ./check && echo \"fine\"", Some(80), Some(2080)), |v| {
                v.error =
                    "process \"/bin/sh -c ./check\" did not complete successfully: exit code: 3".to_owned();
            }),
        ),
    ]
}

fn surface() -> Surface {
    Surface { colour: false, label: "palan:default".to_owned(), log_lines: 6 }
}

fn play(mode: Mode, script: &[(u64, Update)]) -> String {
    let mut progress = Progress::new(mode, false, surface(), at(0));
    let mut text = String::new();
    for (time, update) in script {
        text.push_str(&progress.update(update, at(*time)));
    }
    let end = script.last().map_or(0, |(time, _)| *time);
    text.push_str(&progress.finish(at(end), 0, 0));
    text
}

#[test]
fn plain() {
    let expected = "\
#1 [internal] load build definition from Dockerfile
#1 transferring dockerfile: 156B 0.0s done
#1 DONE 0.0s

#2 [build 1/3] FROM docker.io/library/bb:latest
#2 CACHED

#3 [build 2/3] COPY . /src
#3 0.040 half a line
#3 DONE 0.3s

#4 [test 1/1] RUN ./check && echo \"fine\"
#4 0.045 first
#4 1.320 second
#4 ERROR: process \"/bin/sh -c ./check\" did not complete successfully: exit code: 3
------
 > [test 1/1] RUN ./check && echo \"fine\":
0.045 first
1.320 second
------
";
    assert_eq!(play(Mode::Plain, &script()), expected);
    assert_eq!(play(Mode::Auto, &script()), expected);
}

#[test]
fn a_silent_step_gives_the_view_away() {
    let script = [
        (0, vertex("a", "[1/2] RUN sleep 60", Some(0), None)),
        (100, vertex("b", "[2/2] RUN chatter", Some(100), None)),
        (2000, log("b", 2000, "one\n")),
        (6000, log("b", 6000, "two\n")),
        (6500, vertex("b", "[2/2] RUN chatter", Some(100), Some(6500))),
        (7000, log("a", 7000, "awake\n")),
    ];
    assert_eq!(
        play(Mode::Plain, &script),
        "#1 [1/2] RUN sleep 60\n#1 ...\n\n#2 [2/2] RUN chatter\n#2 1.900 one\n#2 5.900 two\n#2 DONE 6.4s\n\n\
         #1 [1/2] RUN sleep 60\n#1 7.000 awake\n"
    );
}

#[test]
fn a_step_that_is_ended_has_not_failed() {
    let cancelled = with(vertex("a", "[1/1] RUN sleep 60", Some(0), Some(900)), |v| {
        v.error = "process did not complete: context canceled".to_owned();
    });
    let script = [(0, vertex("a", "[1/1] RUN sleep 60", Some(0), None)), (900, cancelled)];
    assert_eq!(play(Mode::Plain, &script), "#1 [1/1] RUN sleep 60\n#1 CANCELED\n");
}

#[test]
fn what_still_runs_ends_with_a_build_that_is_given_up() {
    let mut progress = Progress::new(Mode::Plain, false, surface(), at(0));
    progress.update(&vertex("a", "[1/2] RUN true", Some(0), Some(10)), at(10));
    progress.update(&vertex("b", "[2/2] RUN sleep 60", Some(20), None), at(20));
    assert_eq!(progress.cancel(at(900)), "#2 CANCELED\n");
    assert_eq!(progress.finish(at(900), 0, 0), "");
    assert_eq!(progress.trace().completed(), 2);
}

#[test]
fn parts_are_told_once_a_second_until_they_are_done() {
    let script = [
        (0, vertex("a", "[internal] load build context", Some(0), None)),
        (10, status("a", "transferring context:", 5_000, 0, None)),
        (500, status("a", "transferring context:", 1_500_000, 0, None)),
        (1600, status("a", "transferring context:", 2_000_000, 0, None)),
        (1700, status("a", "transferring context:", 2_500_000, 0, Some(1650))),
        (1800, vertex("a", "[internal] load build context", Some(0), Some(1800))),
    ];
    assert_eq!(
        play(Mode::Plain, &script),
        "#1 [internal] load build context\n#1 transferring context: 5.00kB\n#1 transferring context: 2.00MB\n\
         #1 transferring context: 2.50MB 1.6s done\n#1 DONE 1.8s\n"
    );
}

#[test]
fn warnings_are_told_where_they_arise() {
    let warning = Warning { vertex: "a".to_owned(), short: "mind the gap".to_owned(), ..Warning::default() };
    let script = [
        (0, vertex("a", "[1/1] RUN x", Some(0), None)),
        (10, Update { warnings: vec![warning], ..Update::default() }),
        (20, vertex("a", "[1/1] RUN x", Some(0), Some(20))),
    ];
    assert_eq!(play(Mode::Plain, &script), "#1 [1/1] RUN x\n#1 WARN: mind the gap\n#1 DONE 0.0s\n");
}

#[test]
fn a_step_may_be_worked_on_twice() {
    let script = [
        (0, vertex("a", "x", Some(0), Some(1000))),
        (2000, vertex("a", "x", Some(2000), Some(2500))),
        (2600, vertex("a", "x", Some(2400), Some(2700))),
    ];
    let mut progress = Progress::new(Mode::Quiet, false, surface(), at(0));
    for (time, update) in &script {
        assert_eq!(progress.update(update, at(*time)), "");
    }
    assert_eq!(progress.trace().steps()[0].elapsed(at(9000)), Duration::from_millis(1700));
}

#[test]
fn times_of_output_get_coarser() {
    let mut script = vec![(0, vertex("sha256:aa", "[1/1] RUN x", Some(0), None))];
    script.extend([9_999, 10_000, 99_990, 100_040].map(|time| (time, log("sha256:aa", time, "hi\n"))));
    let text = play(Mode::Plain, &script);
    assert_eq!(text, "#1 [1/1] RUN x\n#1 9.999 hi\n#1 10.00 hi\n#1 99.99 hi\n#1 100.0 hi\n");
}

#[test]
fn rawjson() {
    let script = [
        (
            0,
            with(vertex("sha256:aa", "[1/1] RUN x", Some(0), Some(1500)), |v| {
                v.inputs = vec!["sha256:bb".to_owned()]
            }),
        ),
        (5, log("sha256:aa", 5, "hi\n")),
        (5, status("sha256:aa", "part", 7, 0, None)),
    ];
    assert_eq!(
        play(Mode::RawJson, &script),
        concat!(
            r#"{"vertexes":[{"digest":"sha256:aa","inputs":["sha256:bb"],"name":"[1/1] RUN x","started":"2023-11-14T22:13:20Z","completed":"2023-11-14T22:13:21.5Z"}]}"#,
            "\n",
            r#"{"logs":[{"vertex":"sha256:aa","stream":1,"data":"aGkK","timestamp":"2023-11-14T22:13:20.005Z"}]}"#,
            "\n",
            r#"{"statuses":[{"id":"part","vertex":"sha256:aa","current":7,"timestamp":"2023-11-14T22:13:20Z","started":"2023-11-14T22:13:20Z"}]}"#,
            "\n",
        )
    );
    assert_eq!(play(Mode::Quiet, &script) + &play(Mode::None, &script), "");
}

/// A screen that text is written to: what a user of a terminal sees. Only what the table writes is understood.
fn terminal(text: &str, columns: usize) -> Vec<String> {
    let mut rows: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0, 0);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\n' => (row, column) = (row + 1, 0),
            '\r' => column = 0,
            '\x1b' => {
                let sequence: String = characters.by_ref().take_while(|c| !c.is_ascii_alphabetic()).collect();
                let letter = text[..text.len() - characters.as_str().len()].chars().next_back();
                match letter {
                    Some('A') => row -= sequence[1..].parse::<usize>().unwrap(),
                    Some('J') => {
                        rows.truncate(row);
                        rows.resize(row + 1, Vec::new());
                    }
                    Some('l' | 'h' | 'm') => {}
                    other => panic!("{sequence:?} {other:?}"),
                }
            }
            c => {
                assert!(column < columns, "a line is too wide");
                let length = rows[row].len().max(column + 1);
                rows[row].resize(length, ' ');
                rows[row][column] = c;
                column += 1;
            }
        }
        rows.resize(rows.len().max(row + 1), Vec::new());
    }
    rows.iter().map(|row| row.iter().collect::<String>()).collect()
}

fn table_of(until: u64, rows: u16, columns: u16, finish: bool) -> Vec<String> {
    let mut progress = Progress::new(Mode::Tty, false, surface(), at(0));
    let mut text = String::new();
    for (time, update) in script().iter().filter(|(time, _)| *time <= until) {
        progress.update(update, at(*time));
        text.push_str(&progress.draw(at(*time), rows, columns));
    }
    text.push_str(&match finish {
        true => progress.finish(at(until), rows, columns),
        false => progress.draw(at(until), rows, columns),
    });
    // What is told below the table may be broken into lines.
    terminal(&text, if finish { 80 } else { usize::from(columns) })
}

#[test]
fn table_while_it_runs() {
    assert_eq!(
        table_of(1600, 24, 62, false),
        [
            "[+] Building 1.6s (3/4)                          palan:default",
            " => [internal] load build definition from Dockerfile      0.0s",
            " => => transferring dockerfile: 156B                      0.0s",
            " => CACHED [build 1/3] FROM docker.io/library/bb:latest   0.0s",
            " => [build 2/3] COPY . /src                               0.3s",
            " => [test 1/1] RUN ./check && echo \"fine\"                 1.5s",
            " => => # first                                                ",
            " => => # second                                               ",
            "",
        ]
    );
}

#[test]
fn table_at_the_end() {
    assert_eq!(
        table_of(2080, 24, 62, true),
        [
            "[+] Building 2.1s (4/4) FINISHED                 palan:default",
            " => [internal] load build definition from Dockerfile      0.0s",
            " => => transferring dockerfile: 156B                      0.0s",
            " => CACHED [build 1/3] FROM docker.io/library/bb:latest   0.0s",
            " => [build 2/3] COPY . /src                               0.3s",
            " => ERROR [test 1/1] RUN ./check && echo \"fine\"           2.0s",
            "------",
            " > [test 1/1] RUN ./check && echo \"fine\":",
            "0.045 first",
            "1.320 second",
            "------",
            "",
        ]
    );
}

#[test]
fn a_table_fits_into_the_terminal() {
    let small = table_of(1600, 6, 40, false);
    assert_eq!(
        small,
        [
            "[+] Building 1.6s (3/4)    palan:default",
            " => [build 2/3] COPY . /src         0.3s",
            " => [test 1/1] RUN ./check && ech.. 1.5s",
            " => => # first                          ",
            " => => # second                         ",
            "",
        ]
    );
    assert_eq!(table_of(2080, 6, 40, true)[1], " => [internal] load build definit.. 0.0s");
}

#[test]
fn a_narrower_terminal_is_drawn_over() {
    let mut progress = Progress::new(Mode::Tty, false, surface(), at(0));
    progress.update(&script()[0].1, at(0));
    progress.draw(at(0), 24, 80);
    // Two lines of 80 columns take four of 40.
    assert!(progress.draw(at(100), 24, 40).contains("\x1b[4A"));
    assert!(progress.draw(at(200), 24, 40).contains("\x1b[2A"));
}

#[test]
fn colours_are_for_those_who_want_them() {
    let draw = |colour: bool| {
        let mut progress = Progress::new(Mode::Tty, false, Surface { colour, ..surface() }, at(0));
        progress.update(&script()[2].1, at(50));
        progress.draw(at(50), 24, 80)
    };
    assert!(draw(true).contains("\x1b[34m => [internal]"));
    assert!(!draw(false).contains("\x1b[34m"));
}

#[test]
fn names_cannot_draw() {
    let script = vertex("a", "[1/1] RUN x\n\x1b[2Jy", Some(0), None);
    let mut progress = Progress::new(Mode::Tty, false, surface(), at(0));
    progress.update(&script, at(0));
    let text = progress.draw(at(0), 24, 60);
    assert!(text.contains(" => [1/1] RUN x  [2Jy "), "{text:?}");
}

#[test]
fn a_build_without_steps_has_a_head() {
    let mut progress = Progress::new(Mode::Tty, false, surface(), at(0));
    let text = progress.draw(at(100), 24, 60);
    assert!(text.contains("[+] Building 0.1s (0/0)"), "{text:?}");
}
