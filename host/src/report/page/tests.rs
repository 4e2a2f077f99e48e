use super::axis::Axis;
use super::chart::{About, Curve, Point, chart};
use super::flow::{Stage, flow};
use super::histogram::{Part, histogram};
use super::*;

#[test]
fn texts_cannot_become_markup_or_turn_around() {
    let check = |text: &str, expected: &str| assert_eq!(escape(text), expected);
    check("</script><b a='1'>&\"", "&lt;/script&gt;&lt;b a=&#39;1&#39;&gt;&amp;&quot;");
    check("a\u{202e}b\u{2066}c\u{2069}", "a\u{fffd}b\u{fffd}c\u{fffd}");
    check("\u{1b}[2J\u{0}\r\u{9b}1\n", "\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}1\n");
    check("日本 é ع", "日本 é ع");
    let page = document("<i>", "<p>x</p>");
    assert!(page.contains("<title>&lt;i&gt;</title>") && page.contains("default-src 'none'"));
}

#[test]
fn ticks_are_round_and_hold_every_number() {
    let check = |values: &[f64], expected: &str| {
        let axis = Axis::over(values.iter().copied()).unwrap();
        let labels: Vec<String> = axis.ticks.iter().map(|&tick| axis.label(tick)).collect();
        assert_eq!(labels.join(" "), expected, "{values:?}");
        for &value in values {
            assert!((0.0..=1.0).contains(&axis.share(value)));
        }
    };
    check(&[0.0, 1.0], "0 0.25 0.50 0.75 1.00");
    check(&[1.2, 2.3], "1.0 1.5 2.0 2.5");
    check(&[15.2, 16.2], "15.00 15.25 15.50 15.75 16.00 16.25");
    check(&[-3.0, 40.0], "-20 0 20 40");
    check(&[0.0, 1e-4], "0 2.5e-5 5.0e-5 7.5e-5 1.00e-4");
    check(&[7.0, 7.0], "6.6 6.8 7.0 7.2 7.4");
    check(&[0.0, 0.0], "-1.0 -0.5 0 0.5 1.0");
    check(&[1e6, 3e6], "1.0e6 1.5e6 2.0e6 2.5e6 3.0e6");
    assert_eq!(Axis::over([f64::NAN, f64::INFINITY]), None);
    for values in [[f64::MAX, f64::MIN], [1e-320, 0.0], [1.0, 1.0 + f64::EPSILON]] {
        let axis = Axis::over(values).unwrap();
        assert!((2..=8).contains(&axis.ticks.len()), "{values:?}: {axis:?}");
        assert!(values.iter().all(|&value| axis.share(value).is_finite()), "{values:?}");
    }
    let whole = |low, high| Axis::whole(low, high).ticks;
    assert_eq!(whole(0.0, 3.0), [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(whole(1.0, 1.0), [1.0]);
    assert_eq!(whole(0.0, 20.0), [0.0, 5.0, 10.0, 15.0, 20.0]);
    assert_eq!(Axis::counts(0).ticks, [0.0, 1.0]);
    assert_eq!(Axis::counts(3).ticks, [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(Axis::counts(10).ticks, [0.0, 5.0, 10.0]);
}

#[test]
fn bins_hold_every_number_once() {
    let found = histogram(&[&[1.0, 2.0, 2.0, 9.0], &[10.0, f64::NAN]]).unwrap();
    let sums: Vec<u64> = found.counts.iter().map(|counts| counts.iter().sum()).collect();
    assert_eq!((sums, found.width, found.low), (vec![4, 1], 5.0, 0.0));
    assert_eq!(found.counts, [[3, 1, 0], [0, 0, 1]]);
    let first = found.rows().next().unwrap();
    assert_eq!(first, ["0", "5", "3", "0"]);
    assert_eq!(found.most(&[0, 1]), 3);
    for values in [&[3.5][..], &[0.0; 9], &[f64::MAX, f64::MIN], &[-1.0, 1e-300]] {
        let found = histogram(&[values]).unwrap();
        assert_eq!(found.counts[0].iter().sum::<u64>(), values.len() as u64, "{values:?}");
        assert!(found.counts[0].len() <= 24);
        let part = Part { index: 0, class: "bar", name: "n" };
        assert!(!found.draw("t", "x", &[part], found.most(&[0])).contains("NaN"), "{values:?}");
    }
    assert_eq!(histogram(&[&[], &[f64::NAN]]), None);
}

#[test]
fn a_chart_draws_what_is_finite() {
    let about = About { title: "t", x: "update", whole: true, parted: &[2.0], mark: None };
    let draw = |points: Vec<Point>| {
        chart(&about, &[Curve { name: "loss", colour: 0, parts: vec![points], marked: false }])
    };
    let svg = draw(vec![Point::at(1.0, 2.0), Point::at(2.0, f64::NAN), Point::at(3.0, 1.0)]);
    assert!(
        svg.contains("<desc>over update: loss from 2.0000 at 1 to 1.0000 at 3</desc>"),
        "{svg}"
    );
    assert_eq!(svg.matches("<polyline").count(), 1);
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert_eq!(draw(vec![Point::at(1.0, f64::NAN)]), "");
    assert_eq!(draw(Vec::new()), "");
    assert!(draw(vec![Point::at(1.0, 2.0)]).contains("<circle"));
}

#[test]
fn a_flow_says_what_enters_and_leaves() {
    let stages = [
        Stage { name: "generate", enters: 32, leaves: vec![("too-long".into(), 2)] },
        Stage { name: "filter", enters: 30, leaves: vec![("<b>".into(), 7), ("x".into(), 3)] },
    ];
    let svg = flow("round 1", &stages, "trained");
    assert!(svg.contains(
        "<desc>32 enter generate, 2 leave: too-long; 30 enter filter, 7 leave: &lt;b&gt;, 3 leave: x; \
         20 trained</desc>"
    ));
    assert_eq!(svg.matches("class=\"drop\"").count(), 3);
    assert!(flow("nothing", &[], "trained").contains(">0<"));
}
