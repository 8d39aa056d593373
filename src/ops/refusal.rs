//! What a browser shows where the page may not be seen.

use hyper::StatusCode;

use super::access::Access;
use super::http::{self, Answer};

/// In place of the page, for people: what they may do, or have their operator set.
pub(super) fn page(access: Access) -> Answer {
    let (status, what) = match access {
        Access::Closed => (
            StatusCode::FORBIDDEN,
            "<p>The page shows statements, clients and addresses. Howdah listens here on an address that other machines \
             can reach (<code>ops_listen</code>), and no token is set, so it shows them to nobody.</p>\
             <p>State a token in the configuration, and reload Howdah:</p>\
             <pre>ops_token = \"a long random text\"\n# or the first line of a file:\n\
             ops_token_file = \"/etc/howdah/ops_token\"</pre>\
             <p>A browser then asks for it: any user name, the token as password. With \
             <code>ops_tls_cert</code> and <code>ops_tls_key</code> it does not cross the network in clear text.</p>\
             <p>Or let this machine alone ask, without a token: <code>ops_listen = \"127.0.0.1:9127\"</code>, and \
             restart Howdah.</p>",
        ),
        Access::Open | Access::Everything => (
            StatusCode::UNAUTHORIZED,
            "<p>The page needs the token that is stated as <code>ops_token</code> in Howdah's configuration: any user \
             name, the token as password. Load the page again to be asked for it.</p>",
        ),
    };
    let text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>Howdah</title>\
         <style>body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 42em; margin: 2em auto; padding: 0 1em; }} \
         pre {{ overflow-x: auto; padding: 8px 12px; border: 1px solid #8886; border-radius: 6px; }}</style>\
         <h1>Howdah</h1>{what}\
         <p>Open to everybody: <a href=\"/metrics\">/metrics</a>, <a href=\"/healthz\">/healthz</a>, \
         <a href=\"/readyz\">/readyz</a>.</p></html>\n"
    );
    let page = http::html(status, text);
    if status == StatusCode::UNAUTHORIZED { http::with_login(page) } else { page }
}
