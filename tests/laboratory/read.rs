//! Traces are read, or refused with a reason.

use crate::lab::trace::read::parse;
use crate::lab::trace::rows::{Rows, SessionRow, Shape};

const HEAD: &str = "session,agent,seq,t_ms,model,in_tok,out_tok,nblk,ref,lcp,think_ms,api_ms,tool_sys_tok\n";

#[test]
fn a_sessions_file_is_read_in_its_order() {
    let text = format!(
        "{HEAD}7,0,0,0,m,200,5,3,-1,0,0,10,70\n9,0,0,0,m,64,5,1,-1,0,0,10,0\n7,1,1,50,m,300,6,4,0,3,40,20,70\n"
    );
    let Rows::Sessions(sessions) = parse(&text).unwrap() else { panic!("sessions") };
    let shape = Shape { input: 300, output: 6, blocks: 4, reference: Some(0), same: 3 };
    assert_eq!(sessions.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(sessions[0][1], SessionRow { agent: 1, at_ms: 50, think_ms: 40, answer_ms: 20, common: 70, shape });
}

#[test]
fn what_does_not_hold_together_is_told_with_its_line() {
    let check = |text: String, wanted: &str| {
        let error = format!("{:#}", parse(&text).err().expect(wanted));
        assert!(error.contains(wanted), "{error:?} lacks {wanted:?}");
    };
    let good = "1,0,0,0,m,200,5,3,-1,0,0,10,70\n";
    check(String::new(), "no calls");
    check(HEAD.to_owned(), "no calls");
    check("t_ms,seq\n0,0\n".to_owned(), "line 2: there is no column `kind`");
    check(format!("{HEAD}1,0,0,0,m,200,5,3,-1\n"), "line 2: nothing in column `lcp`");
    check(format!("{HEAD}1,0,0,0,m,2x,5,3,-1,0,0,10,70\n"), "`in_tok` is no number that it may be: '2x'");
    check(format!("{HEAD}1,0,0,0,m,0,5,0,-1,0,0,10,70\n"), "`in_tok` is not between");
    check(format!("{HEAD}1,0,0,0,m,200,5,4,-1,0,0,10,70\n"), "`nblk` blocks hold more");
    check(format!("{HEAD}{good}1,0,2,0,m,200,5,3,0,3,0,10,70\n"), "line 3: `seq` does not count");
    check(format!("{HEAD}{good}1,0,1,0,m,200,5,3,1,3,0,10,70\n"), "line 3: `ref` is no earlier call");
    check(format!("{HEAD}{good}1,0,1,0,m,300,5,4,0,4,0,10,70\n"), "line 3: `lcp` is more than");
}
