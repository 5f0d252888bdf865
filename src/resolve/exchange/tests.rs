use super::super::test_server::{NameServer, Reply, question, servers};
use super::*;
use hickory_proto::rr::{Name, RecordType};
use std::time::Instant;

fn query() -> Query {
    Query::query(Name::from_ascii("www.example.").unwrap(), RecordType::A)
}

#[tokio::test]
async fn the_first_server_that_answers_is_enough_and_is_asked_first_from_then_on() {
    let broken = [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp, ResponseCode::FormErr]
        .map(|code| NameServer::start(move |_, _| Reply::Code(code)));
    let good = NameServer::start(|_, _| Reply::Addresses(&["192.0.2.1"], 60));
    for broken in broken {
        let servers = servers(&[&broken, &good]);
        for _ in 0..3 {
            assert_eq!(ask(&servers, &query()).await.unwrap().answers.len(), 1);
        }
        assert_eq!(broken.questions().len(), 1, "it is not asked again while the other answers");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_takes_no_time() {
    let servers = servers(&[&NameServer::gone()]);
    let started = Instant::now();
    let err = ask(&servers, &query()).await.unwrap_err();
    assert!(started.elapsed() < servers.timeout / 2, "{:?}", started.elapsed());
    assert_eq!(err.to_string(), "name server 127.0.0.1: Connection refused");
}

#[tokio::test]
async fn a_silent_server_is_asked_again_and_then_the_next() {
    let silent = NameServer::start(|_, _| Reply::Silence);
    let only = servers(&[&silent]);
    let err = ask(&only, &query()).await.unwrap_err();
    assert_eq!(err.to_string(), "name server 127.0.0.1: no answer");
    assert_eq!(silent.questions().len(), 2, "as many attempts as resolv.conf says");
    let good = NameServer::start(|_, _| Reply::Addresses(&["192.0.2.1"], 60));
    let both = servers(&[&silent, &good]);
    ask(&both, &query()).await.unwrap();
    assert_eq!(silent.questions().len(), 3);
    // One that failed for another reason is not asked again in the next round.
    let refusing = NameServer::start(|_, _| Reply::Code(ResponseCode::Refused));
    assert!(ask(&servers(&[&refusing, &silent]), &query()).await.is_err());
    assert_eq!((refusing.questions().len(), silent.questions().len()), (1, 5));
}

#[tokio::test]
async fn what_is_not_the_answer_is_waited_past() {
    for strange in [Reply::OtherId, Reply::OtherName, Reply::NoQuestion, Reply::Echo] {
        let server = NameServer::start(move |_, _| strange);
        let err = ask(&servers(&[&server]), &query()).await.unwrap_err();
        assert_eq!(err.to_string(), "name server 127.0.0.1: no answer", "{strange:?}");
        let server = NameServer::start(move |_, _| Reply::AfterThat(&["192.0.2.1"]));
        assert_eq!(ask(&servers(&[&server]), &query()).await.unwrap().answers.len(), 1);
    }
}

#[tokio::test]
async fn nonsense_is_no_answer() {
    let bad = NameServer::start(|_, _| Reply::Nonsense);
    let lame = NameServer::start(|_, _| Reply::Referral);
    let err = ask(&servers(&[&bad]), &query()).await.unwrap_err();
    assert!(err.to_string().ends_with("it answered nonsense"), "{err}");
    let err = ask(&servers(&[&lame]), &query()).await.unwrap_err();
    assert!(err.to_string().ends_with("it does not resolve for others"), "{err}");
    let good = NameServer::start(|_, _| Reply::Addresses(&["192.0.2.1"], 60));
    assert!(ask(&servers(&[&bad, &lame, &good]), &query()).await.is_ok());
}

#[tokio::test]
async fn what_does_not_fit_comes_over_tcp() {
    let server = NameServer::start(|_, tcp| if tcp { Reply::Many(50) } else { Reply::Truncated });
    let answer = ask(&servers(&[&server]), &query()).await.unwrap();
    assert_eq!(answer.answers.len(), 50);
    // A server that is truncated there too, hangs up, or says nothing, is of no use.
    for reply in [Reply::Truncated, Reply::Nonsense, Reply::OtherId, Reply::Silence] {
        let server = NameServer::start(move |_, tcp| if tcp { reply } else { Reply::Truncated });
        assert!(ask(&servers(&[&server]), &query()).await.is_err(), "{reply:?}");
    }
}

#[tokio::test]
async fn edns_is_used_where_it_is_asked_for_and_understood() {
    let server = NameServer::start(|_, _| Reply::Addresses(&["192.0.2.1"], 60));
    let mut with = servers(&[&server]);
    ask(&with, &query()).await.unwrap();
    with.edns = true;
    ask(&with, &query()).await.unwrap();
    let payloads: Vec<Option<u16>> =
        server.questions().iter().map(|asked| asked.edns.as_ref().map(Edns::max_payload)).collect();
    assert_eq!(payloads, [None, Some(1232)]);
    let old = NameServer::start(|asked, _| match asked.edns {
        Some(_) => Reply::Code(ResponseCode::FormErr),
        None => Reply::Addresses(&["192.0.2.1"], 60),
    });
    let mut with = servers(&[&old]);
    with.edns = true;
    assert!(ask(&with, &query()).await.is_ok());
}

#[tokio::test]
async fn each_question_has_an_id_and_a_port_of_its_own() {
    let server = NameServer::start(|_, _| Reply::Addresses(&["192.0.2.1"], 60));
    let servers = servers(&[&server]);
    for _ in 0..20 {
        ask(&servers, &query()).await.unwrap();
    }
    let distinct = |values: Vec<u16>| values.into_iter().collect::<std::collections::HashSet<_>>().len();
    let asked = server.questions();
    assert!(distinct(asked.iter().map(|message| message.metadata.id).collect()) > 15);
    assert!(distinct(server.ports()) > 15);
    assert!(asked.iter().all(|message| question(message) == "www.example. A"));
    assert!(asked.iter().all(|message| message.metadata.recursion_desired));
}

#[tokio::test]
async fn name_servers_with_ipv6_are_asked() {
    let server = NameServer::start_at("[::1]:0", |_, _| Reply::Addresses(&["192.0.2.1"], 60));
    assert!(ask(&servers(&[&server]), &query()).await.is_ok());
}
