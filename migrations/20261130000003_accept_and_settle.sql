-- What the service does most often, in as few and as cheap statements as possible.

-- The requested_at of a claim that is made now. STABLE, though the clock goes on, since Citus takes
-- to pieces what calls a VOLATILE function; a statement calls it once, in a CTE.
CREATE FUNCTION claim_moment() RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN date_trunc('milliseconds', clock_timestamp());
END
$$;
COMMENT ON FUNCTION claim_moment IS
    'The requested_at of a claim that is made now: what the clock shows, in whole milliseconds';

-- Puts one payment into the queue if it is new: queued, or, where `claimed_for` names a processor,
-- claimed for it from the start (claim-on-accept). `queued_row` is null where the payment was in
-- the queue already; `recorded_amount` is not null where it is settled, archived or a dead letter,
-- and then it is not in the queue. For one payment, since most come alone (at 1,000 a second still
-- nearly every commit has one), and arrays take a third of the whole statement.
--
-- What it must keep:
-- - VOLATILE, and three statements: each has a snapshot of its own. The INSERT waits where another
--   transaction is removing the payment's row (settle, dead letter), and inserts it anew after that
--   commit. The SELECT after it sees what that transaction wrote, and the DELETE takes the row out
--   again before the commit, so that no claim has seen it. A single statement has one snapshot and
--   would miss the settle. Guard: AcceptLooksIntoLedger.
-- - ON CONFLICT DO NOTHING on the UNIQUE constraint: of two accepts the second waits for the first
--   and queues nothing. It locks no row that is there, so no claim passes by because of it.
--   Guard: AcceptOnce.
-- - The INSERT comes before the SELECT: in the other order a settle could commit between them.
--   Guard: AcceptLooksAfterInsert.
-- - Claim-on-accept writes processor, requested_at, attempt, lease_until and doubt_until with the
--   row: a crash right after the commit finds all of the evidence.
-- - requested_at is of clock_timestamp() in whole milliseconds, as it is sent; lease_until and
--   doubt_until count from now(), as in every claim. accepted_at is not after requested_at.
-- - A settle that has no row in the queue and is not committed cannot be seen. There is one only
--   after a crash of the server has emptied an unlogged queue.
-- Twins: accept_payments below; claim_up_to and claim_in_doubt in src/store/claim.rs.
-- Races: tests/gateway/races.
CREATE FUNCTION accept_payment(
    payment uuid, amount numeric, claimed_for text, lease interval, late_charge interval,
    traceparent text,
    OUT queued_row bigint, OUT moment timestamptz, OUT claimed_requested_at timestamptz, OUT recorded_amount numeric
) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    moment := clock_timestamp();
    IF claimed_for IS NULL THEN
        INSERT INTO payment_queue (correlation_id, amount, accepted_at, traceparent)
        VALUES (payment, amount, moment, traceparent)
        ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING
        RETURNING id INTO queued_row;
    ELSE
        claimed_requested_at := date_trunc('milliseconds', moment);
        INSERT INTO payment_queue
            (correlation_id, amount, accepted_at, lease_until, attempt, processor, requested_at,
                doubt_until, traceparent)
        VALUES (payment, amount, moment, now() + lease, 1, claimed_for, claimed_requested_at,
            now() + lease + late_charge, traceparent)
        ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING
        RETURNING id INTO queued_row;
    END IF;
    SELECT b.amount INTO recorded_amount FROM (
        SELECT p.amount FROM payment_processed p WHERE p.correlation_id = payment
        UNION ALL
        SELECT d.amount FROM payment_dead_letter d WHERE d.correlation_id = payment
        UNION ALL
        SELECT a.amount FROM payment_archived a WHERE a.correlation_id = payment
    ) b;
    IF recorded_amount IS NOT NULL THEN
        DELETE FROM payment_queue q WHERE q.id = queued_row;
    END IF;
END
$$;

-- The same for several payments. Returns which were queued (with their rows), and which are
-- settled, archived or dead letters (with the recorded amounts); the others are in the queue
-- already. `traceparents` is null where no client sent one, which is the rule.
--
-- First as if none of the payments were in the queue: to look for them in each row takes a tenth
-- of the whole statement. Where one is, nothing of that INSERT stays, and it is done anew.
--
-- What it must keep: all that accept_payment keeps, and
-- - the order of ids, which the caller sorts: two accepts of the same ids wait for each other in
--   the same order, so neither causes a deadlock.
-- - unique_violation is the only error that is caught: any other one accepts nothing.
-- Twin: accept_payment above.
CREATE FUNCTION accept_payments(
    ids uuid[], amounts numeric[], claimed_for text, lease interval, late_charge interval,
    traceparents text[],
    OUT queued_ids uuid[], OUT queued_rows bigint[], OUT moment timestamptz, OUT claimed_requested_at timestamptz,
    OUT recorded_ids uuid[], OUT recorded_amounts numeric[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    lease_end CONSTANT timestamptz :=
        coalesce(now() + CASE WHEN claimed_for IS NOT NULL THEN lease END, '-infinity');
    doubt_end CONSTANT timestamptz :=
        CASE WHEN claimed_for IS NOT NULL THEN now() + lease + late_charge END;
    attempts  CONSTANT integer := CASE WHEN claimed_for IS NULL THEN 0 ELSE 1 END;
BEGIN
    moment := clock_timestamp();
    claimed_requested_at := CASE WHEN claimed_for IS NOT NULL THEN date_trunc('milliseconds', moment) END;
    BEGIN
        WITH queued AS (
            INSERT INTO payment_queue
                (correlation_id, amount, accepted_at, lease_until, attempt, processor,
                    requested_at, doubt_until, traceparent)
            SELECT i.id, i.amount, moment, lease_end, attempts, claimed_for,
                claimed_requested_at, doubt_end, i.traceparent
            FROM unnest(ids, amounts, traceparents) AS i (id, amount, traceparent)
            RETURNING correlation_id, id
        )
        SELECT array_agg(q.correlation_id), array_agg(q.id) INTO queued_ids, queued_rows
        FROM queued q;
    EXCEPTION
        WHEN unique_violation THEN
            WITH queued AS (
                INSERT INTO payment_queue
                    (correlation_id, amount, accepted_at, lease_until, attempt, processor,
                        requested_at, doubt_until, traceparent)
                SELECT i.id, i.amount, moment, lease_end, attempts, claimed_for,
                    claimed_requested_at, doubt_end, i.traceparent
                FROM unnest(ids, amounts, traceparents) AS i (id, amount, traceparent)
                ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO NOTHING
                RETURNING correlation_id, id
            )
            SELECT array_agg(q.correlation_id), array_agg(q.id) INTO queued_ids, queued_rows
            FROM queued q;
    END;
    SELECT array_agg(b.correlation_id), array_agg(b.amount) INTO recorded_ids, recorded_amounts FROM (
        SELECT p.correlation_id, p.amount FROM payment_processed p
        WHERE p.correlation_id = ANY (ids)
        UNION ALL
        SELECT d.correlation_id, d.amount FROM payment_dead_letter d
        WHERE d.correlation_id = ANY (ids)
        UNION ALL
        SELECT a.correlation_id, a.amount FROM payment_archived a WHERE a.correlation_id = ANY (ids)
    ) b;
    IF recorded_ids IS NOT NULL THEN
        DELETE FROM payment_queue q
        WHERE q.id = ANY (queued_rows) AND q.correlation_id = ANY (recorded_ids);
    END IF;
END
$$;

-- Moves payments that one processor has charged from the queue to the ledger. A row of the queue
-- goes only if it is assigned to that processor (the fence); the charge is recorded in any case,
-- since a late success is a fact (Guard: ChargeIsAFact), unless the payment is recorded or archived
-- already. Returns which payments were removed from the queue, and which were recorded; null where
-- all were, which is the rule.
--
-- First as if all were assigned and none was recorded: to look out for the others in each row takes
-- a fifth of the whole statement. Where that proves wrong nothing of it stays, and each row is
-- looked at, by a statement that sees what the others have committed meanwhile.
--
-- What it must keep:
-- - The fence of the row is processor = charged_by, not the number of the claim: a late success is
--   a fact, and a row that names another processor is evidence of another call. PostgreSQL checks
--   it again on the newest version, where the DELETE had to wait for a claim, a release or a
--   decision.
-- - DELETE and INSERT are one transaction: the payment is in the queue or in the ledger.
--   Guard: SettleIsOneStep.
-- - VOLATILE, and a second statement after the exception: it has a newer snapshot, in which the
--   charge that another transaction recorded, or archived, is there.
-- - ON CONFLICT DO NOTHING: the first record of a charge stays. The caller is told by recorded_ids.
-- - The trigger payment_archived_is_recorded looks at the archive once more, with the snapshot of
--   the end of the INSERT: archive may commit while the INSERT waits for the row that it takes out.
-- - The ledger is written in the order of correlation_id: two settles of the same payments wait for
--   each other in the same order.
-- Twins: decide_in_doubt (an operator says that it was charged); put_right and record in
-- src/pipeline/reconcile/ledger.rs. Races: tests/gateway/races.
CREATE FUNCTION settle_payments(
    ids uuid[], charged_by text, amounts numeric[], requested timestamptz[],
    accepted timestamptz[], attempts integer[],
    OUT removed_ids uuid[], OUT recorded_ids uuid[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held bigint;
BEGIN
    BEGIN
        DELETE FROM payment_queue q
        WHERE q.correlation_id = ANY (ids) AND q.processor = charged_by;
        GET DIAGNOSTICS held = ROW_COUNT;
        IF held < cardinality(ids) THEN
            RAISE no_data_found;
        END IF;
        INSERT INTO payment_processed
            (correlation_id, amount, processor, requested_at, accepted_at, attempt)
        SELECT c.correlation_id, c.amount, charged_by, c.requested_at, c.accepted_at, c.attempt
        FROM unnest(ids, amounts, requested, accepted, attempts)
            AS c (correlation_id, amount, requested_at, accepted_at, attempt)
        ORDER BY c.correlation_id;
        RETURN;
    EXCEPTION
        -- Not assigned; recorded; archived, which payment_archived_is_recorded says.
        WHEN no_data_found OR unique_violation OR serialization_failure THEN
            NULL;
    END;
    WITH removed AS (
        DELETE FROM payment_queue q WHERE q.correlation_id = ANY (ids) AND q.processor = charged_by
        RETURNING q.correlation_id
    ), recorded AS (
        INSERT INTO payment_processed AS p
            (correlation_id, amount, processor, requested_at, accepted_at, attempt)
        SELECT c.correlation_id, c.amount, charged_by, c.requested_at, c.accepted_at, c.attempt
        FROM unnest(ids, amounts, requested, accepted, attempts)
            AS c (correlation_id, amount, requested_at, accepted_at, attempt)
        WHERE NOT EXISTS (
            SELECT FROM payment_archived a WHERE a.correlation_id = c.correlation_id
        )
        ORDER BY c.correlation_id
        ON CONFLICT ON CONSTRAINT payment_processed_pkey DO NOTHING
        RETURNING p.correlation_id
    )
    SELECT
        CASE WHEN (SELECT count(*) FROM removed) < cardinality(ids)
            THEN ARRAY(SELECT r.correlation_id FROM removed r) END,
        CASE WHEN (SELECT count(*) FROM recorded) < cardinality(ids)
            THEN ARRAY(SELECT b.correlation_id FROM recorded b) END
    INTO removed_ids, recorded_ids;
END
$$;

-- Puts payments back into a queue that was emptied, which an instance still knows: each that it had
-- claimed is assigned to the processor that may have charged it, in doubt when the lease is over;
-- each other one, whose processor is null, is queued. Returns how many are there now.
--
-- What it must keep:
-- - One statement inserts and one UNIQUE constraint decides: of two instances that put one payment
--   back the second finds the row of the first. Called again after a crash, or after a commit that
--   was not confirmed, it changes nothing for the worse.
-- - ON CONFLICT DO UPDATE: a payment that was posted again meanwhile is in the queue already, and
--   is assigned, too (Guard: PutBackOverPosted). A row stays as it is where this instance knows
--   of no claim: what another instance knows counts, whichever comes first.
-- - The row of a newer claim stays as it is (Guard: PutBackYields): the claim of an instance that
--   knew more, or one of this queue, whose instance had given this one up for dead. Numbers of
--   claims begin anew with each life of the queue, so requested_at says which claim is newer: a
--   processor is chosen anew only under a later one, unless the database's clock was set back
--   between the two.
-- - A number that no claim of the queue before has (Guard: PutBackCountsOn). Rows and claims are
--   counted from 1 again, and a claim in doubt keeps its requested_at: what ends a claim of the
--   queue before must not pass for the end of a claim of this one. Others may have claimed the
--   payment since this instance did, but not ten thousand times while a doubt lasts.
-- - VOLATILE: the DELETE has a newer snapshot, and sees what was settled during the INSERT. What
--   was discarded after it was accepted is gone for good, too.
-- - processor and requested_at are those of the claim; the lease begins anew.
-- - The amount of a row that is there stays: it was accepted with that one.
-- - The order of ids: two instances, and accept_payments, wait for each other in the same order.
-- Twins: accept_payments (claim-on-accept); the claims in src/store/claim.rs.
-- Races: tests/gateway/races.
CREATE FUNCTION put_back_payments(
    ids uuid[], amounts numeric[], accepted timestamptz[], attempts integer[], processors text[],
    requested timestamptz[], lease interval, late_charge interval
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    put_back bigint;
    recorded bigint;
BEGIN
    INSERT INTO payment_queue AS q
        (correlation_id, amount, accepted_at, lease_until, attempt, processor, requested_at,
            doubt_until)
    SELECT c.id, c.amount, c.accepted_at,
        CASE WHEN c.processor IS NULL THEN '-infinity' ELSE now() + lease END,
        c.attempt + CASE WHEN c.processor IS NULL THEN 0 ELSE 10000 END, c.processor, c.requested_at,
        CASE WHEN c.processor IS NOT NULL THEN now() + lease + late_charge END
    FROM unnest(ids, amounts, accepted, attempts, processors, requested)
        AS c (id, amount, accepted_at, attempt, processor, requested_at)
    ORDER BY c.id
    ON CONFLICT ON CONSTRAINT payment_queue_correlation_id_key DO UPDATE
    SET lease_until = excluded.lease_until,
        attempt = greatest(q.attempt, excluded.attempt),
        processor = excluded.processor, requested_at = excluded.requested_at,
        doubt_until = excluded.doubt_until
    WHERE excluded.processor IS NOT NULL
        AND (q.processor IS NULL OR q.requested_at <= excluded.requested_at);
    GET DIAGNOSTICS put_back = ROW_COUNT;
    DELETE FROM payment_queue q WHERE q.correlation_id = ANY (ids) AND (
        EXISTS (SELECT FROM payment_processed p WHERE p.correlation_id = q.correlation_id)
        OR EXISTS (SELECT FROM payment_dead_letter d WHERE d.correlation_id = q.correlation_id)
        OR EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = q.correlation_id)
        OR EXISTS (
            SELECT FROM payment_decision d
            WHERE d.correlation_id = q.correlation_id AND d.decision = 'discarded'
                AND d.accepted_at = q.accepted_at
        )
    );
    GET DIAGNOSTICS recorded = ROW_COUNT;
    RETURN put_back - recorded;
END
$$;

COMMENT ON FUNCTION put_back_payments IS
    'Puts payments that an instance still knows back into a queue that was emptied, those that it '
    'had claimed in doubt at their processor';
COMMENT ON FUNCTION accept_payment IS
    'Puts one payment into the queue, if it is new, and returns what became of it';
COMMENT ON FUNCTION accept_payments IS
    'Puts payments into the queue, those that are new, and returns what became of each';
COMMENT ON FUNCTION settle_payments IS
    'Moves payments that a processor has charged from the queue to the ledger, and returns those '
    'that were not as expected';
