//! `--mode gate`: nothing leaves but what wayleave carries. Somebody in the client's place tries every other way out, and
//! what comes out is looked at where it would come out: on the cable behind the router.

use crate::support::Lab;
use crate::support::adversary::{HIS_MARK, ways};
use crate::support::wait;

/// Without a gate each of his ways leads out: whoever finds none of them there has looked in the right place.
#[test]
fn without_a_gate_every_way_leads_out() {
    let lab = Lab::router();
    lab.careless_router();
    let sniffer = lab.sniffer();
    let ways = ways();
    lab.tries(&ways, &sniffer);
    let missing = || -> Vec<String> {
        let came = sniffer.words(HIS_MARK);
        ways.iter().filter(|way| !came.contains(&way.name)).map(|way| way.name.clone()).collect()
    };
    let all_came = wait::poll(std::time::Duration::from_secs(3), || missing().is_empty().then_some(()));
    assert!(all_came.is_some(), "of {} ways: {:?}", ways.len(), missing());
    assert!(ways.len() > 2000, "{} ways", ways.len());
}
