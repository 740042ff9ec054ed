//! A headless Chromium that opens the page of a daemon, waits until its script has drawn, and says what came of it.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use flate2::read::ZlibDecoder;
use serde_json::Value;

use crate::support::Program;

/// How much time passes on the page, in milliseconds: it asks three times in it. It passes faster than ours.
const BUDGET: u32 = 6000;

/// What a page became.
pub struct Seen {
    /// The document after the script has run.
    pub dom: String,
    /// What the script complained of, or said.
    pub console: Vec<String>,
    /// What the page asked for.
    pub requests: Vec<String>,
    /// The colour of the upper left corner: red, green, blue.
    pub ground: [u8; 3],
}

/// Opens the page; what the browser leaves behind goes into a folder of that name in `dir`.
pub fn open(dir: &Path, port: u16, name: &str, words: &[&str]) -> Seen {
    let (profile, picture, log) = (dir.join(name), dir.join(format!("{name}.png")), dir.join(format!("{name}.json")));
    let origin = format!("http://127.0.0.1:{port}");
    // Its own sandbox needs what a container may not give; the page is ours.
    let outcome = Program::at("/usr/bin/chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--window-size=1600,1400", "--enable-logging=stderr", "--dump-dom"])
        .args(words)
        .arg(format!("--virtual-time-budget={BUDGET}"))
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("--log-net-log={}", log.display()))
        .arg(format!("{origin}/"))
        .env("HOME", dir)
        .deadline(Duration::from_secs(60))
        .run()
        .expect_ok();
    let console = outcome.stderr.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Seen { console, requests: requests(&read(&log), &origin), ground: corner(&read(&picture)), dom: outcome.stdout }
}

/// What the page of this origin asked for, by the browser's own record of the network.
fn requests(log: &[u8], origin: &str) -> Vec<String> {
    let log: Value = serde_json::from_slice(log).expect("because the browser has ended and written it whole");
    let events = log["events"].as_array().expect("because it is a record of events");
    let of_the_page = events.iter().map(|event| &event["params"]).filter(|params| params["initiator"] == origin);
    of_the_page.filter_map(|params| params["url"].as_str()).map(str::to_owned).collect()
}

/// The first pixel of a PNG of eight bits a colour: whatever filter its row has, there is nothing before it.
fn corner(png: &[u8]) -> [u8; 3] {
    let (mut packed, mut rest) = (Vec::new(), &png[8..]);
    while let [a, b, c, d, tail @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if &tail[..4] == b"IDAT" {
            packed.extend_from_slice(&tail[4..4 + length]);
        }
        rest = &tail[4 + length + 4..];
    }
    let mut first = [0; 4];
    ZlibDecoder::new(packed.as_slice()).read_exact(&mut first).expect("because a picture has a pixel");
    [first[1], first[2], first[3]]
}
