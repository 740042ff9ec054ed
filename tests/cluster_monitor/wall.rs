//! What stands on the page of a daemon, as a browser shows it.

use serde_json::Value;

use crate::browser::{self, Seen};
use crate::scene::{Scene, get};
use crate::support::{PATIENCE, wait_until};

/// The grounds of the page by light and by dark.
const GROUNDS: [(&str, &[&str], [u8; 3]); 2] =
    [("light", &[], [0xf4, 0xf5, 0xf8]), ("dark", &["--force-dark-mode"], [0x0e, 0x12, 0x20])];

impl Scene {
    /// A backup of the primary and a restore that was proven; then WAL of which one segment is lost.
    pub fn backed_up_with_a_gap(&mut self) {
        let directory = self.layout.dir.join("drill");
        self.layout.set("drill", "directory", directory.display()).set("drill", "shared_buffers", "16MB").write();
        let run =
            |program: &str, words: &[&str]| self.layout.program("db1", program).args(words).deadline(PATIENCE).run();
        run("base-backup", &["take"]).expect_ok();
        run("pitr-restore", &["drill", "--latest"]).expect_ok();
        let segments: Vec<String> = (0..3).map(|_| self.db1.switch_wal()).collect();
        let archive = self.layout.node("db1").archive.clone().expect("because db1 has one");
        let stored = |name: &String| archive.join("wall/wal").join(&name[..16]).join(format!("{name}.zst"));
        wait_until(PATIENCE, "they are archived", || segments.iter().all(|name| stored(name).exists()));
        std::fs::remove_file(stored(&segments[1])).expect("because it is there");
    }

    /// Half an hour of history, as daemons that were there before have written it down: a point in ten seconds.
    pub fn remembered(&self) {
        self.db1.execute(
            "insert into pgwarm.lag_history (node_id, sampled_at, primary_id, primary_lsn, flushed_lsn, replayed_lsn) \
             select node.id, now() - make_interval(secs => 30 + 10 * step), 1, '0/2000000'::pg_lsn - 1000 * step, \
                    '0/2000000'::pg_lsn - 2000 * step, \
                    '0/2000000'::pg_lsn - 1000 * step - (300000 * (1 + sin(step / 9.0 + node.id)))::numeric \
               from pgwarm.nodes as node, generate_series(1, 180) as step where node.role = 'standby'",
        );
    }

    /// A daemon that has just begun shows what was before it, with its own points behind that.
    pub fn past_is_shown(&self, port: u16) {
        let series = || serde_json::from_str::<Value>(&get(port, "/series.json").1).unwrap_or_default();
        let span = |series: &Value| {
            let at = series["at"].as_array().cloned().unwrap_or_default();
            at.last().and_then(Value::as_f64).zip(at.first().and_then(Value::as_f64)).map_or(0.0, |(b, a)| b - a)
        };
        wait_until(PATIENCE, "the past is there", || span(&series()) > 1500.0);
        wait_until(PATIENCE, "points are added", || {
            let points = series()["nodes"]["db2"].as_array().cloned().unwrap_or_default();
            points.iter().filter(|point| point.is_u64()).count() > 180 && points.last().is_some_and(Value::is_u64)
        });
    }

    /// Opens the page by light and by dark, and holds what was drawn against the cluster.
    pub fn page_is_drawn(&self, port: u16) {
        wait_until(PATIENCE, "the gap is found", || get(port, "/status.json").1.contains("1 segment is missing"));
        for (name, words, ground) in GROUNDS {
            let seen = browser::open(&self.layout.dir, port, name, words);
            assert_eq!((&seen.console, seen.ground), (&Vec::new(), ground), "{name}");
            let origin = format!("http://127.0.0.1:{port}/");
            for path in ["status.json", "series.json", "events.json"] {
                assert!(seen.requests.contains(&format!("{origin}{path}")), "{path}: {:?}", seen.requests);
            }
            assert!(seen.requests.iter().all(|url| url.starts_with(&origin)), "{:?}", seen.requests);
            drawn(&seen);
        }
    }
}

/// Everything that the script draws.
fn drawn(seen: &Seen) {
    // The script itself stands at the end.
    let dom = seen.dom.split("<script").next().unwrap_or_default();
    let part = |from: &str, to: &str| {
        let (_, rest) = dom.split_once(from).unwrap_or_else(|| panic!("no '{from}' in {dom}"));
        rest.split(to).next().unwrap_or_default().to_owned()
    };
    let topology = part("id=\"topology\"", "</section>");
    for node in ["db1", "db2", "db3", "dr1", "w"] {
        assert!(topology.contains(&format!(">{node}</text>")), "{node}: {topology}");
    }
    // db2 and db3 stream, one of them synchronously; dr1 and w hang on the primary in ways of their own.
    assert_eq!(topology.matches("class=\"arrow\"").count(), 4, "{topology}");
    for word in ["edge sync", ">quorum", "edge vote", "PRIMARY", ">timeline 1<"] {
        assert!(topology.contains(word), "{word}: {topology}");
    }
    let (legend, plot) = (part("id=\"legend\"", "id=\"plot\""), part("id=\"plot\"", "</section>"));
    let lines: Vec<usize> = plot
        .split("stroke:")
        .skip(1)
        .map(|path| path.split("</path>").next().unwrap_or_default())
        .map(|path| path.matches('L').count())
        .collect();
    assert!(["db2", "db3"].iter().all(|node| legend.contains(&format!("</i>{node}<b>"))), "{legend}");
    assert!(lines.iter().filter(|points| **points > 150).count() >= 2, "{lines:?}: {plot}");
    let archives = part("id=\"archives\"", "</section>");
    for word in ["class=\"held\"", "class=\"gap\"", "class=\"backup\"", "1 backup, the newest", "1 segment missing"] {
        assert!(archives.contains(word), "{word}: {archives}");
    }
    assert!(archives.contains("last restore proven"), "{archives}");
    let events = part("id=\"events\"", "</section>");
    assert!(events.contains(">cluster created</b>") && events.contains(">witness register</b>"), "{events}");
    assert!(part("id=\"findings\"", "</section>").contains("check-archive"), "{dom}");
    for nothing in ["NaN", "Infinity", ">undefined", ">null", "? ago"] {
        assert!(!dom.contains(nothing), "{nothing}: {dom}");
    }
    assert!(dom.contains("db1 is the primary, at "), "{dom}");
}
