#!/usr/bin/env bash
# Takes away one guard after the other and sees whether a test notices: `make guards`, or this with the names of rows.
# With `check` it only looks whether each guard is where its row says, and each test is there.
#
# The rows are those of tests/pooler-bugs.md. Each guard is a text of a source, what stands in its place without the
# guard, and the test that must fail then. All of that happens in a copy of the tree: nothing has to be put back.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$PWD
work=$root/target/guards
tree=$work/tree
export CARGO_TARGET_DIR=${GUARDS_TARGET:-$work/target}
# Built often, looked into never.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0
export HOWDAH_TEST_CACHE=${HOWDAH_TEST_CACHE:-$root/tests/.cache}
patience=${GUARDS_PATIENCE:-300}

# Rows whose guard no edit takes away, and why.
declare -A without=(
    [24]="no result is kept"
    [25]="there is no default password"
    [29]="there is no parser that could recurse"
    [32]="a matter of releases"
    [34]="the language"
    [37]="every read of a count is of a checked slice: the language, and a lint against indexing, which coverage.rs looks for"
    [43]="the end of TLS is rustls' own error"
)

rows=() files=() texts=() instead=() modules=() tests=()
# guard ROW FILE TEXT INSTEAD MODULE TEST; the module is lib, whichever of it, or one of tests/it.
guard() {
    rows+=("$1") files+=("$2") texts+=("$3") instead+=("$4") modules+=("$5") tests+=("$6")
}

auth=src/auth
guard 1 $auth/message.rs 'Ok(n) if n == data.len() => Ok((plus, data)),' 'Ok(_) => Ok((plus, data)),' \
    lib lengths_of_the_initial_response
guard '2 F52' $auth/scram/client.rs 'if message.len() > MAX_SERVER_FIRST {' 'if false {' \
    lib hostile_challenges_are_refused_before_any_work
guard '2 F52' $auth/scram/client.rs 'if !extends_ours || !is_printable(nonce) {' 'if false {' \
    lib hostile_challenges_are_refused_before_any_work
guard 3 src/error/mod.rs "self.field(b'C').unwrap_or(b\"XX000\")" "self.field(b'C').expect(\"a code\")" \
    lib every_field_of_an_error_may_be_missing
guard 4 src/console/session.rs 'if command.right() > self.right {' 'if false {' operating::console rights
guard 5 src/lookup.rs 'if config.profile == Profile::Native || how.query.is_none() {' 'if false {' \
    logins::access questions_are_asked_with_a_search_path_of_their_own
guard '6 F53' src/lookup.rs 'CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END' 'rolpassword' \
    logins::access unlisted_users_come_in_with_scram
guard 6 src/lookup.rs ' AND rolcanlogin' '' logins::access unlisted_users_come_in_with_scram
guard '7 F47' src/client/login.rs '    if !buf.is_empty() {' '    if false {' \
    tls plain_text_and_garbage_around_the_handshake
guard '7 41 F49' src/server/secure.rs 'b"S" => Ok(true),' "[b'S', ..] => Ok(true)," \
    tls plain_text_behind_the_server_s_answer
guard 8 src/client/authenticate.rs 'return if exists {' 'return if exists || true {' logins::methods clients_with_trust
guard 9 $auth/client.rs "        if tag != b'p' {" '        if false {' \
    lib only_a_password_message_is_legal_and_only_in_its_turn
guard 10 src/proto/startup.rs 'const MAX_NAME: usize = 63;' 'const MAX_NAME: usize = 64;' \
    lib defaults_duplicates_and_clipping
guard 10 src/proto/startup.rs '(MIN_LENGTH..=MAX_LENGTH).contains(&n)' 'n >= MIN_LENGTH' \
    lib lengths_are_checked_before_the_bytes_arrive
guard '11 36' src/number.rs 'u32::try_from(things).unwrap_or(u32::MAX)' 'things as u32' \
    lib what_does_not_fit_is_the_nearest_that_does
guard '11 36' src/proto/frame.rs '.and_then(|n| i32::try_from(n).ok());' '.map(|n| n as i32);' \
    lib a_length_that_does_not_fit_is_one_that_no_message_has
guard 12 src/proto/startup.rs 'if !after.is_empty() {' 'if false {' lib broken_layouts_are_refused
guard 13 $auth/verifier.rs 'if salt.is_empty() || salt.len() > MAX_SALT {' 'if false {' \
    lib malformed_verifiers_are_refused
guard '14 F53' $auth/client.rs '        _ => as_if(rng),' '        _ => Method::Refused,' \
    lib known_and_unknown_users_get_the_same_challenge
guard 14 $auth/verifier.rs 'hmac(&self.bytes, &[b"salt", user.as_bytes()])' 'hmac(&self.bytes, &[b"salt"])' \
    lib the_mock_salt_is_stable_and_differs_by_user_and_process
guard 15 $auth/scram/mod.rs 'f.write_str("ScramKeys(..)")' 'write!(f, "ScramKeys({:?})", self.client_key)' \
    lib debug_shows_no_key
guard 16 src/proto/startup.rs 'if self.extensions.len() >= MAX_EXTENSIONS {' 'if false {' lib negotiation
guard 17 src/proto/startup.rs 'if newest_minor == startup.minor && startup.extensions.is_empty() {' 'if false {' \
    logins::admission versions_of_the_protocol
guard 18 src/lookup.rs 'match own.query_with(sql, &[Some(user)]).await {' \
    "match own.query(&sql.replace(\"\$1\", &format!(\"'{user}'\"))).await {" \
    logins::access unlisted_users_come_in_with_scram
guard 19 $auth/scram/server.rs 'if !matches || self.is_mock {' 'if self.is_mock {' \
    lib mutated_messages_never_panic_and_never_log_in
guard 20 $auth/client.rs "            _ if given.is_empty() => false,
            // Digests" '            // Digests' lib an_empty_message_is_a_failure
guard 21 $auth/scram/channel.rs '("n", false, _) | ("y", false, None)' '("n", false, _) | ("y", false, _)' \
    lib both_sides_agree_where_they_see_the_same_certificate_and_only_there
guard 22 src/lookup.rs '.get_mut(source, user)' '.get_mut(source, "")' \
    logins::access unlisted_users_come_in_with_scram
guard 23 src/client/login.rs 'let shown = match trusted {' 'let shown = match trusted || !startup.user.is_empty() {' \
    logins::methods clients_with_scram
guard 26 src/client/login.rs 'console && config.profile == Profile::PgBouncer && is_ourselves(stream, &startup.user);' \
    'console;' operating::console who_may_come_in
guard 26 src/client/login.rs 'console && config.profile == Profile::PgBouncer && is_ourselves' 'console && is_ourselves' \
    operating::console nobody_is_admin_whom_a_native_configuration_does_not_name
guard 27 src/proto/startup/options.rs "out.push_str(&value.replace('\\'', \"''\"));" 'out.push_str(value);' \
    lib literals_close_only_at_their_end
guard 27 src/proto/startup/options.rs 'if !is_valid_guc_name(&name) {' 'if false {' \
    lib options_as_postgresql_splits_them
guard '28 36' src/proto/frame.rs 'if length < 4 || length > max {' 'if length < 4 {' \
    lib headers_need_five_bytes_and_a_sane_length
guard 38 src/proto/frame.rs 'fe::SYNC | fe::FLUSH | fe::TERMINATE | fe::COPY_DONE => 4,' \
    'fe::SYNC | fe::FLUSH | fe::TERMINATE | fe::COPY_DONE => max_message,' \
    faults::client message_of_an_impossible_length
guard 30 src/app/listen.rs 'std::panic::AssertUnwindSafe(session.run()).catch_unwind().await;' \
    'Ok::<_, Box<dyn std::any::Any + Send>>(session.run().await);' \
    lib a_panic_ends_one_session_and_leaves_the_pool_whole
guard 31 src/proto/startup.rs '(MIN_LENGTH..=MAX_LENGTH).contains(&n)' 'n <= MAX_LENGTH' \
    lib lengths_are_checked_before_the_bytes_arrive
guard 33 src/app/bind.rs 'std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;' \
    'std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;' logins::admission the_unix_socket
guard 35 src/client/authenticate.rs 'failures.failed(now, limit, &who);' '' \
    logins::methods passwords_are_not_guessed_for_long
guard 35 src/client/login.rs 'tokio::time::timeout_at((started + limit).into(), first)).await;' \
    'tokio::time::timeout_at((started + limit * 1000).into(), first)).await;' \
    faults::client login_is_never_finished
guard 35 src/client/login.rs 'reading(stream, buf, limit.min(PATIENCE)).await?;' \
    'reading(stream, buf, limit * 1000).await?;' faults::client login_is_never_finished
guard 35 src/clients/strangers/crowd.rs '_ if room => Ok(None),' '' \
    logins::places clients_that_connect_at_once_and_speak_later_all_get_in
guard 35 src/client/login.rs 'tokio::time::timeout_at(deadline.into(), admitted)).await' \
    'tokio::time::timeout_at((deadline + limit * 1000).into(), admitted)).await' \
    logins::hostile ten_thousand_clients_depart_from_the_protocol
guard '39 F52' $auth/scram/client.rs 'parse_iterations(iterations, MAX_ITERATIONS)' 'parse_iterations(iterations, u32::MAX)' \
    lib hostile_challenges_are_refused_before_any_work
guard 40 $auth/server.rs '_ if self.binding == ChannelBinding::Require => return Err(self.unbound()),' '' \
    lib nothing_is_proved_without_the_binding_that_is_required
guard 40 $auth/server.rs '(Some(hash), true) => Binding::EndPoint(hash),' \
    '(Some(hash), true) if hash.is_empty() => Binding::EndPoint(hash), (Some(_), true) => Binding::None,' \
    tls logins_are_bound_to_the_certificate_on_15
guard 42 src/client/login.rs 'if stream.tls().and_then(|c| c.alpn_protocol()) != Some(crate::tls::ALPN) {' 'if false {' \
    tls direct_tls
guard 44 src/proto/startup.rs 'if (4..=256).contains(&key.len()) => {' 'if true => {' lib cancel_keys_of_4_to_256_bytes
guard 45 src/app/escape.rs 'fn acts(c: char) -> bool {' 'fn acts(c: char) -> bool { if c != char::MAX { return false; }' \
    logins::access no_client_writes_lines_of_the_log
guard F48 src/client/login.rs 'services.shared.counters.count("tls_handshake_failures_total", "client");' '' \
    tls plain_text_and_garbage_around_the_handshake
guard F50 src/tls/verify.rs '} else if self.now > c.not_after() {' '} else if false {' \
    tls certificates_of_servers_are_judged_as_libpq_does
guard F50 src/tls/verify.rs 'if !c.is_signed_by(issuer, self.algorithms.all) {' 'if false {' \
    tls certificates_of_servers_are_judged_as_libpq_does
guard F51 $auth/scram/server.rs 'if nonce != challenge.nonce {' 'if false {' lib wrong_final_messages
guard F51 $auth/scram/server.rs 'if binding != challenge.binding {' 'if false {' lib wrong_final_messages
guard F52 $auth/server.rs '(0, State::Scram) => Err(self.protocol("the server ended SCRAM before it proved itself")),' \
    '(0, State::Scram) => Ok(ServerAction::Accept),' lib a_server_that_does_not_prove_itself_is_left
guard F52 $auth/scram/client.rs 'Some(given) if bool::from(given.ct_eq(&signature)) => Ok(()),' \
    'Some(given) if bool::from(given.ct_eq(&signature)) || true => Ok(()),' \
    lib a_server_that_does_not_prove_itself_is_left
guard F54 src/client/authenticate.rs 'Box::pin(asking).await?)' 'Box::pin(asking).await.unwrap_or((Found::Nobody, Asked::Now)))' \
    logins::access a_server_that_cannot_be_asked_is_an_honest_error

# Beyond the page: what this directory's other tables rest on.
guard peer src/config/ident.rs 'l.map == map && l.system == system' 'l.map == map' \
    logins::matrix peers_of_the_socket_come_in_as_with_postgres_15
guard proof src/client/authenticate.rs 'matches!(secret, Some(Secret::Scram(_)))' 'secret.is_none()' \
    logins::examples scram_pass_through
# Keys, failures and answers by a user's name alone; and whatever a server asks for.
guard tenants src/auth/source.rs 'self.0.get(&(database.clone(), user.clone()))' \
    'self.0.iter().find(|((_, u), _)| u == user).map(|(_, s)| { let _ = database; s })' \
    logins::access one_role_of_two_clusters_is_logged_in_to_each_with_its_own_keys
guard owner src/auth/failures.rs 'let may_be_known = who.source != Source::Directory;' 'let may_be_known = false;' \
    logins::access the_owner_comes_in_while_somebody_guesses_behind_the_same_address
guard require src/auth/require.rs 'self.words.iter().any(word)' 'self.words.iter().any(word) || true' \
    logins::methods servers_on_postgres_15
# The instances' own word, in which one that was killed has no part, instead of the server's count.
guard fleet src/fleet/sql.rs "SELECT (SELECT count(*) FROM a WHERE {ours} OR {member} AND n LIKE '{MARK} {fleet} %')::int AS backends," \
    'SELECT (SELECT coalesce(sum(used + 1), 0) FROM m)::int + {used} + 1 AS backends,' \
    pools::fleet backends_of_a_killed_instance_count_until_they_end

wanted() {
    [ $# = 1 ] && return 0
    local of=" $1 " each
    shift
    for each in "$@"; do [[ $of == *" $each "* ]] && return 0; done
    return 1
}

# The source with the guard, and without it; false if the guard is not there exactly once. Of the copy, once there is one:
# somebody may go on with the sources meanwhile.
from=$root
text='' less=''
taken_away() {
    local file=$from/${files[$1]} rest
    text=$(cat "$file" && printf x)
    text=${text%x}
    less=${text/"${texts[$1]}"/"${instead[$1]}"}
    rest=${text/"${texts[$1]}"/}
    [ "$rest" != "$text" ] && [[ $rest != *"${texts[$1]}"* ]]
}

# Whether the table fits the sources, and has every row of the page.
check() {
    local i in code=0 all=" ${rows[*]} ${!without[*]} " row
    for i in "${!rows[@]}"; do
        taken_away "$i" || { echo "row ${rows[i]}: not exactly once in ${files[i]}: ${texts[i]}" && code=1; }
        in=tests/it/${modules[i]//::/\/}.rs
        [ "${modules[i]}" != lib ] || in=src
        grep -rqF "fn ${tests[i]}(" "$in" || { echo "row ${rows[i]}: no test ${tests[i]} in $in" && code=1; }
    done
    while read -r row; do
        [[ $all == *" $row "* ]] || { echo "row $row has no guard and no reason" && code=1; }
    done < <(sed -n 's/^| \(F\{0,1\}[0-9][0-9]*\) |.*/\1/p' tests/pooler-bugs.md)
    return $code
}

if [ "${1:-}" = check ]; then
    check
    exit
fi

copy() {
    rm -rf "$tree"
    mkdir -p "$tree" "$work"
    git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
        if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done | tar --null -T - -cf - | tar -xf - -C "$tree"
}

of_module() {
    if [ "$1" = lib ]; then echo --lib; else echo "--test it"; fi
}

# How a test of the copy goes: passes, fails, hangs, is not there, or does not compile.
outcome() {
    local flags said=$work/said
    local which=("$2")
    flags=$(of_module "$1")
    [ "$1" = lib ] || which=("$1::$2" --exact)
    # shellcheck disable=SC2086
    if ! (cd "$tree" && cargo test --locked --quiet --no-run $flags) >"$said" 2>&1; then
        echo "does not compile"
        return
    fi
    local code=0
    # shellcheck disable=SC2086
    (cd "$tree" && timeout -k 10 "$patience" cargo test --locked $flags -- "${which[@]}") >"$said" 2>&1 || code=$?
    if [ $code = 124 ] || [ $code = 137 ]; then
        echo hangs
    elif [ $code != 0 ]; then
        echo fails
    elif grep -q 'test result: ok. [1-9]' "$said"; then
        echo passes
    else
        echo "is not there"
    fi
}

HOWDAH_PG_BIN=${HOWDAH_PG_BIN:-$(tests/support/setup.sh test)}
export HOWDAH_PG_BIN
copy
from=$tree
declare -A whole
noticed=0 bad=()
# Those of one module one after the other: less is built anew.
order=$(for i in "${!rows[@]}"; do echo "${modules[i]/#lib/ } $i"; done | sort -s -k 1,1 | sed 's/.* //')
for i in $order; do
    wanted "${rows[i]}" "$@" || continue
    what="row ${rows[i]}: ${files[i]}: ${texts[i]%%$'\n'*}"
    key="${modules[i]} ${tests[i]}"
    file=$tree/${files[i]}
    if ! taken_away "$i"; then
        bad+=("$what: not exactly once in the file")
        continue
    fi
    # A test that fails anyway notices nothing.
    if [ -z "${whole[$key]:-}" ]; then
        whole[$key]=$(outcome "${modules[i]}" "${tests[i]}")
    fi
    if [ "${whole[$key]}" != passes ]; then
        bad+=("$what: ${tests[i]} ${whole[$key]} with the guard, too")
        continue
    fi
    printf %s "$less" >"$file"
    seen=$(outcome "${modules[i]}" "${tests[i]}")
    printf %s "$text" >"$file"
    case $seen in
    fails | hangs)
        noticed=$((noticed + 1))
        echo "noticed ($seen): $what: ${tests[i]}"
        ;;
    passes) bad+=("$what: ${tests[i]} does not notice") ;;
    *) bad+=("$what: without it, ${tests[i]} $seen") ;;
    esac
    [ ${#bad[@]} = 0 ] || echo "so far ${#bad[@]} that no test noticed, the last: ${bad[-1]}"
done
echo "$noticed guards taken away and noticed"
for each in "${bad[@]}"; do echo "NOT NOTICED: $each"; done
[ ${#bad[@]} = 0 ]
