use pgwire::messages::extendedquery::{CloseComplete, ParseComplete, Sync};
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::SslRequest;
use pgwire::messages::terminate::Terminate;

use super::*;
use crate::error::{Severity, SqlState};

fn report() -> Report {
    Report {
        severity: Severity::Error,
        sqlstate: SqlState("53300"),
        code: "x",
        message: "no".to_owned(),
        detail: None,
        hint: None,
        verbatim: None,
    }
}

#[test]
fn constants_are_what_pgwire_encodes() {
    assert_eq!(AUTHENTICATION_OK, pgwire_encode(&Authentication::Ok).unwrap());
    assert_eq!(AUTHENTICATION_CLEARTEXT, pgwire_encode(&Authentication::CleartextPassword).unwrap());
    assert_eq!(PARSE_COMPLETE, pgwire_encode(&ParseComplete::new()).unwrap());
    assert_eq!(CLOSE_COMPLETE, pgwire_encode(&CloseComplete::new()).unwrap());
    assert_eq!(SYNC, pgwire_encode(&Sync::new()).unwrap());
    assert_eq!(TERMINATE, pgwire_encode(&Terminate::new()).unwrap());
    assert_eq!(SSL_REQUEST, pgwire_encode(&SslRequest::new()).unwrap());
    for (ours, theirs) in [
        (TxStatus::Idle, TransactionStatus::Idle),
        (TxStatus::InTransaction, TransactionStatus::Transaction),
        (TxStatus::Failed, TransactionStatus::Error),
    ] {
        assert_eq!(ready_for_query(ours).to_vec(), pgwire_encode(&ReadyForQuery::new(theirs)).unwrap());
        assert_eq!(TxStatus::from_byte(ours.as_byte()), Some(ours));
    }
    assert_eq!(TxStatus::from_byte(0), None);
    assert_eq!(usize::from(LAST_RESORT[4]), LAST_RESORT.len() - 1);
}

#[test]
fn error_response_has_its_fields_in_order() {
    let mut r = report();
    assert_eq!(error_response(&r), b"E\0\0\0\x1eSERROR\0VERROR\0C53300\0Mno\0\0");
    r.severity = Severity::Fatal;
    r.detail = Some("d\0x".to_owned());
    r.hint = Some("h".to_owned());
    assert_eq!(error_response(&r), "E\0\0\0\x28SFATAL\0VFATAL\0C53300\0Mno\0Dd\u{fffd}x\0Hh\0\0".as_bytes());
    r.verbatim = Some(b"SFATAL\0Q\xff\0\0".to_vec());
    assert_eq!(error_response(&r), b"E\0\0\0\x0fSFATAL\0Q\xff\0\0");
}

#[test]
fn backend_messages_are_exact() {
    assert_eq!(notice("hi").unwrap(), b"N\0\0\0\x20SNOTICE\0VNOTICE\0C00000\0Mhi\0\0");
    assert_eq!(authentication_md5([1, 2, 3, 4]).unwrap(), b"R\0\0\0\x0c\0\0\0\x05\x01\x02\x03\x04");
    assert_eq!(authentication_sasl(&["SCRAM-SHA-256"]).unwrap(), b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0");
    assert_eq!(sasl_continue(b"abc").unwrap(), b"R\0\0\0\x0b\0\0\0\x0babc");
    assert_eq!(sasl_final(b"v=x").unwrap(), b"R\0\0\0\x0b\0\0\0\x0cv=x");
    assert_eq!(parameter_status("a", "").unwrap(), b"S\0\0\0\x07a\0\0");
    assert_eq!(backend_key_data(7, &[1, 2, 3, 4]).unwrap(), b"K\0\0\0\x0c\0\0\0\x07\x01\x02\x03\x04");
    let long = backend_key_data(-1, &[9; 256]).unwrap();
    assert_eq!(long[..9], *b"K\0\0\x01\x08\xff\xff\xff\xff");
    assert_eq!(long.len(), 9 + 256);
    assert!(backend_key_data(1, &[0; 3]).is_err());
    assert!(backend_key_data(1, &[0; 257]).is_err());
    assert_eq!(negotiate_protocol_version(2, &[]).unwrap(), b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
    assert_eq!(
        negotiate_protocol_version(0, &["_pq_.x".to_owned()]).unwrap(),
        b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0"
    );
}

#[test]
fn frontend_messages_are_exact() {
    assert_eq!(
        startup_message(&[("user", "u"), ("database", "d")]).unwrap(),
        b"\0\0\0\x1b\0\x03\0\0user\0u\0database\0d\0\0"
    );
    assert_eq!(password_message("pw").unwrap(), b"p\0\0\0\x07pw\0");
    assert_eq!(password_message(&"x".repeat(20_000)).unwrap().len(), 20_006);
    assert_eq!(sasl_initial("M", b"n,,").unwrap(), b"p\0\0\0\x0dM\0\0\0\0\x03n,,");
    assert_eq!(sasl_response(b"c=").unwrap(), b"p\0\0\0\x06c=");
    assert_eq!(query("select 1").unwrap(), b"Q\0\0\0\x0dselect 1\0");
    assert_eq!(parse("s", "q", &[23]).unwrap(), b"P\0\0\0\x0es\0q\0\0\x01\0\0\0\x17");
    assert_eq!(parse("", "q", &[]).unwrap(), b"P\0\0\0\x09\0q\0\0\0");
    assert_eq!(close_statement("s").unwrap(), b"C\0\0\0\x07Ss\0");
    assert_eq!(
        cancel_request(7, &[1, 2, 3, 4]).unwrap(),
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x07\x01\x02\x03\x04"
    );
}

#[test]
fn a_zero_byte_is_refused() {
    assert!(query("a\0b").is_err());
    assert!(parse("a\0", "q", &[]).is_err());
    assert!(parse("a", "q\0", &[]).is_err());
    assert!(close_statement("\0").is_err());
    assert!(password_message("a\0").is_err());
    assert!(parameter_status("a", "\0").is_err());
    assert!(startup_message(&[("user", "\0")]).is_err());
    assert!(startup_message(&[("", "x")]).is_err());
    assert!(authentication_sasl(&["\0"]).is_err());
    assert!(sasl_initial("\0", b"").is_err());
    assert!(parse("", "", &vec![0; 65_536]).is_err());
}
