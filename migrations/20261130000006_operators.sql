-- What operators decide and find: decisions on single payments, switches of processors, sessions
-- that were signed out, findings of reconcile. Each with who, when and why; rows are only added.

-- Decisions on payments that the service cannot end by itself, as their operator's word.
CREATE TABLE payment_decision (
    correlation_id uuid          NOT NULL,
    decided_at     timestamptz   NOT NULL DEFAULT clock_timestamp(),
    decision       text          NOT NULL,
    amount         numeric(14,2) NOT NULL,
    accepted_at    timestamptz   NOT NULL,
    processor      text          NOT NULL,
    requested_at   timestamptz,
    decided_by     text          NOT NULL,
    database_role  text          NOT NULL DEFAULT session_user,
    reason         text          NOT NULL,
    CONSTRAINT payment_decision_pkey PRIMARY KEY (correlation_id, decided_at),
    CONSTRAINT payment_decision_is_known CHECK (
        decision IN ('charged', 'not_charged', 'discarded')
    ),
    CONSTRAINT payment_decision_has_an_author CHECK (decided_by <> ''),
    CONSTRAINT payment_decision_has_a_reason CHECK (reason <> '')
);

-- Ends payments in doubt on an operator's word.
--
-- What it must keep:
-- - FOR UPDATE SKIP LOCKED, one row at a time, in the order of ids: it waits for no claim, settle
--   or release; the operator is told in_flight and asks again. FOR UPDATE, since the row may go.
-- - VOLATILE: each look after the lock has a snapshot that is newer than the lock.
-- - The looks into ledger and archive come after the lock: a charge that a settle recorded without
--   this row, or for another processor, is not recorded again.
-- - No lease runs, or payment_attempt says that the newest claim has ended and only pauses: a
--   worker may be at work under any other claim. clock_timestamp(), since now() is older than the
--   lock.
-- - 'not_charged' waits for doubt_until: until then a call may still charge the payment.
--   Guard: WordWaitsForDoubt.
-- - attempt + 1 where the payment is queued again: a late failure of an older claim changes
--   nothing. A late success is recorded by settle_payments as ever. Guard: WordCountsOn.
-- - Decision, ledger and queue are written by one transaction.
-- - The rights of the owner: the service's role may add to the ledger only what it has charged
--   itself, and may add decisions in no other way.
-- Twins: settle_payments (charged) and release in src/pipeline/settle.rs (not charged).
-- Races: tests/gateway/races.
CREATE FUNCTION decide_in_doubt(
    ids uuid[], requested timestamptz[], was_charged boolean, by_whom text, why text,
    dry_run boolean
) RETURNS TABLE (correlation_id uuid, outcome text, processor text, requested_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- A requestedAt that is further from what can have been sent is a mistake.
    slack CONSTANT interval := '1 day';
    role  CONSTANT text := session_user;
    wanted record;
    held   payment_queue;
    charged_at timestamptz;
BEGIN
    IF by_whom = '' OR why = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a decision needs an author and a reason';
    END IF;
    FOR wanted IN
        SELECT DISTINCT ON (i.id) i.id, i.charged_at FROM unnest(ids, requested) AS i (id, charged_at)
        ORDER BY i.id
    LOOP
        correlation_id := wanted.id;
        processor := NULL;
        requested_at := NULL;
        SELECT * INTO held FROM payment_queue q WHERE q.correlation_id = wanted.id
        FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            outcome := CASE
                WHEN EXISTS (SELECT FROM payment_queue q WHERE q.correlation_id = wanted.id)
                    THEN 'in_flight'
                WHEN EXISTS (SELECT FROM payment_processed p WHERE p.correlation_id = wanted.id)
                    OR EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = wanted.id)
                    THEN 'settled'
                WHEN EXISTS (SELECT FROM payment_dead_letter d WHERE d.correlation_id = wanted.id)
                    THEN 'dead'
                ELSE 'unknown'
            END;
            RETURN NEXT;
            CONTINUE;
        END IF;
        processor := held.processor;
        charged_at := coalesce(wanted.charged_at, held.requested_at);
        requested_at := CASE WHEN was_charged THEN charged_at ELSE held.requested_at END;
        outcome := CASE
            WHEN held.processor IS NULL THEN 'queued'
            WHEN EXISTS (SELECT FROM payment_processed p WHERE p.correlation_id = wanted.id)
                OR EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = wanted.id)
                THEN 'settled'
            -- A claim whose end is recorded has ended, and only pauses.
            WHEN held.lease_until > clock_timestamp() AND NOT EXISTS (
                SELECT FROM payment_attempt t
                WHERE t.correlation_id = wanted.id AND t.last_claim >= held.attempt
            ) THEN 'in_flight'
            WHEN NOT was_charged AND held.doubt_until > clock_timestamp() THEN 'too early'
            WHEN was_charged
                AND charged_at NOT BETWEEN held.accepted_at - slack AND clock_timestamp() + slack
                THEN 'out of range'
            ELSE 'done'
        END;
        IF outcome = 'done' AND NOT dry_run THEN
            INSERT INTO payment_decision
                (correlation_id, decision, amount, accepted_at, processor, requested_at, decided_by,
                    database_role, reason)
            VALUES (wanted.id, CASE WHEN was_charged THEN 'charged' ELSE 'not_charged' END,
                held.amount, held.accepted_at, held.processor, decide_in_doubt.requested_at,
                by_whom, role, why);
            IF was_charged THEN
                DELETE FROM payment_queue q WHERE q.id = held.id;
                INSERT INTO payment_processed
                    (correlation_id, amount, processor, requested_at, accepted_at, attempt)
                VALUES (wanted.id, held.amount, held.processor, charged_at, held.accepted_at,
                    held.attempt);
            ELSE
                UPDATE payment_queue q
                SET processor = NULL, requested_at = NULL, doubt_until = NULL,
                    lease_until = '-infinity', attempt = q.attempt + 1
                WHERE q.id = held.id;
                INSERT INTO payment_attempt AS t
                    (correlation_id, requested_at, outcome, processor, reason, first_claim,
                        last_claim)
                VALUES (wanted.id, held.requested_at, 'not_charged', held.processor,
                    format('%s said so: %s', by_whom, why), held.attempt, held.attempt)
                ON CONFLICT ON CONSTRAINT payment_attempt_pkey DO UPDATE
                SET reason = excluded.reason, last_claim = excluded.last_claim,
                    last_ended_at = excluded.last_ended_at;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Forgets dead letters for good, and remembers who did it.
CREATE FUNCTION discard_dead_letters(ids uuid[], by_whom text, why text) RETURNS SETOF uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    role CONSTANT text := session_user;
BEGIN
    RETURN QUERY
    WITH discarded AS (
        DELETE FROM payment_dead_letter d WHERE d.correlation_id = ANY (ids) RETURNING d.*
    )
    INSERT INTO payment_decision
        (correlation_id, decision, amount, accepted_at, processor, requested_at, decided_by,
            database_role, reason)
    SELECT d.correlation_id, 'discarded', d.amount, d.accepted_at, d.processor, d.requested_at,
        by_whom, role, why
    FROM discarded d ORDER BY d.correlation_id
    RETURNING correlation_id;
END
$$;

-- Each time that an operator took a processor out of use or put it back.
CREATE TABLE processor_switch (
    processor     text        NOT NULL,
    switched_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    enabled       boolean     NOT NULL,
    switched_by   text        NOT NULL,
    database_role text        NOT NULL DEFAULT session_user,
    reason        text        NOT NULL,
    CONSTRAINT processor_switch_pkey PRIMARY KEY (processor, switched_at),
    CONSTRAINT processor_switch_has_an_author CHECK (switched_by <> ''),
    CONSTRAINT processor_switch_has_a_reason CHECK (reason <> '')
);

-- With the rights of the owner: the service adds switches in no other way.
CREATE FUNCTION switch_processor(name text, into_use boolean, by_whom text, why text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    UPDATE processor_health SET enabled = into_use WHERE processor = name;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO processor_switch (processor, enabled, switched_by, reason)
    VALUES (name, into_use, by_whom, why);
    RETURN true;
END
$$;
-- An operator has read that the queue was emptied, and has seen to what was lost. Returns how often
-- it was. What happens later is told of anew.
CREATE FUNCTION acknowledge_emptied_queue(by_whom text, why text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    role   CONSTANT text := session_user;
    times  bigint;
BEGIN
    UPDATE payment_queue_emptied
    SET acknowledged_at = moment, acknowledged_by = by_whom, acknowledging_role = role,
        acknowledged_reason = why
    WHERE acknowledged_at IS NULL;
    GET DIAGNOSTICS times = ROW_COUNT;
    RETURN times;
END
$$;

-- `migrate` grants these to the service.
REVOKE EXECUTE ON FUNCTION
    decide_in_doubt, discard_dead_letters, switch_processor, acknowledge_emptied_queue
    FROM PUBLIC;

-- Sessions of operators' browsers that were signed out before they ended. A session is nothing but
-- a sealed cookie, so this keeps which of them are no longer good, until they would have ended.
CREATE TABLE operator_session_revoked (
    session_id uuid        PRIMARY KEY,
    ends_at    timestamptz NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now()
);

-- What `payment-proxy reconcile` found, for whoever asks later: `status`, the page, auditors.
CREATE TABLE reconcile_run (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began_at      timestamptz NOT NULL,
    ended_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    from_time     timestamptz,
    to_time       timestamptz,
    compared      bigint      NOT NULL,
    differ        bigint      NOT NULL,
    repaired      bigint      NOT NULL,
    not_known     bigint      NOT NULL,
    archived      bigint      NOT NULL,
    totals_differ text[]      NOT NULL
);

CREATE TABLE reconcile_finding (
    correlation_id uuid        NOT NULL,
    kind           text        NOT NULL,
    recorded_by    text,
    charged_by     text[]      NOT NULL,
    detail         text        NOT NULL,
    found_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT reconcile_finding_pkey PRIMARY KEY (correlation_id),
    CONSTRAINT reconcile_finding_kind_is_known CHECK (
        kind IN ('charged twice', 'not charged', 'not recorded', 'other processor',
            'other requested_at', 'other amount')
    )
);

COMMENT ON TABLE payment_decision IS
    'What operators decided about single payments, as their word; rows are only added, but for a '
    'purge';
COMMENT ON COLUMN payment_decision.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_decision.decided_at IS 'When it was decided';
COMMENT ON COLUMN payment_decision.decision IS
    'charged: recorded as settled; not_charged: any processor may get it; discarded: a dead '
    'letter was forgotten';
COMMENT ON COLUMN payment_decision.amount IS 'The amount of the payment';
COMMENT ON COLUMN payment_decision.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN payment_decision.processor IS 'The processor that the decision is about';
COMMENT ON COLUMN payment_decision.requested_at IS
    'The requestedAt that the decision is about; of a charge, the one that was recorded';
COMMENT ON COLUMN payment_decision.decided_by IS 'Who decided, as he said';
COMMENT ON COLUMN payment_decision.database_role IS 'The role that the decision came by';
COMMENT ON COLUMN payment_decision.reason IS 'Why, in the words of whoever decided';
COMMENT ON FUNCTION decide_in_doubt IS
    'Ends payments in doubt as an operator says, who has asked their processor by other means: '
    'charged (under requested, or what was sent) or not. Returns per payment what came of it; '
    'with dry_run, what would';
COMMENT ON FUNCTION discard_dead_letters IS
    'Forgets dead letters for good and records who did so and why; returns their ids, which may '
    'be posted again';
COMMENT ON TABLE processor_switch IS
    'Each time that an operator took a processor out of use or put it back; rows are only added';
COMMENT ON COLUMN processor_switch.processor IS 'Name of the processor';
COMMENT ON COLUMN processor_switch.switched_at IS 'When it was switched';
COMMENT ON COLUMN processor_switch.enabled IS
    'True: put back into use; false: taken out, nothing new is sent there';
COMMENT ON COLUMN processor_switch.switched_by IS 'Who did it, as he said';
COMMENT ON COLUMN processor_switch.database_role IS 'The role that it was done by';
COMMENT ON COLUMN processor_switch.reason IS 'Why, in the words of whoever did it';
COMMENT ON FUNCTION switch_processor IS
    'Takes a processor out of use or puts it back, and records who did so and why; false where no '
    'instance has ever heard of it';
COMMENT ON FUNCTION acknowledge_emptied_queue IS
    'Ends that operators are told of a crash or a failover that emptied the queue, and records who '
    'did so and why; returns how many such events there were';
COMMENT ON TABLE operator_session_revoked IS
    'Sessions of operators'' browsers that were signed out; each row goes after the session''s '
    'own end';
COMMENT ON COLUMN operator_session_revoked.session_id IS 'Which session: the id in its cookie';
COMMENT ON COLUMN operator_session_revoked.ends_at IS 'When the session would have ended by itself';
COMMENT ON COLUMN operator_session_revoked.revoked_at IS 'When its operator signed out';
COMMENT ON TABLE reconcile_run IS 'Runs of payment-proxy reconcile that came to their end';
COMMENT ON COLUMN reconcile_run.id IS 'Number of the run';
COMMENT ON COLUMN reconcile_run.began_at IS 'When it began';
COMMENT ON COLUMN reconcile_run.ended_at IS 'When it ended';
COMMENT ON COLUMN reconcile_run.from_time IS
    'The first requested_at that it compared; null: no limit';
COMMENT ON COLUMN reconcile_run.to_time IS 'The last requested_at that it compared; null: no limit';
COMMENT ON COLUMN reconcile_run.compared IS
    'Payments that were compared with every processor they may be at';
COMMENT ON COLUMN reconcile_run.differ IS 'Payments that differ, those that were repaired included';
COMMENT ON COLUMN reconcile_run.repaired IS 'Payments that were repaired';
COMMENT ON COLUMN reconcile_run.not_known IS
    'Payments that a processor they may be at was not asked for, or did not answer for';
COMMENT ON COLUMN reconcile_run.archived IS
    'Payments of the range that are archived, and so not compared one by one';
COMMENT ON COLUMN reconcile_run.totals_differ IS 'Processors whose totals are not the ledger''s';
COMMENT ON TABLE reconcile_finding IS
    'Payments of which ledger and processors differed when payment-proxy reconcile compared them '
    'last';
COMMENT ON COLUMN reconcile_finding.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN reconcile_finding.kind IS 'What differs';
COMMENT ON COLUMN reconcile_finding.recorded_by IS
    'The processor that the ledger names; null: it is not settled there';
COMMENT ON COLUMN reconcile_finding.charged_by IS 'The processors that say that they charged it';
COMMENT ON COLUMN reconcile_finding.detail IS 'The difference in words';
COMMENT ON COLUMN reconcile_finding.found_at IS 'When it was found last';
