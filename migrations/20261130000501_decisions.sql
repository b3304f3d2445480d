-- What operators decided about payments that the service cannot end by itself, as their word: who, when and why.

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
    CONSTRAINT payment_decision_is_known CHECK (decision IN ('charged', 'not charged', 'discarded')),
    CONSTRAINT payment_decision_has_an_author CHECK (decided_by <> ''),
    CONSTRAINT payment_decision_has_a_reason CHECK (reason <> '')
);
COMMENT ON TABLE payment_decision IS 'What operators decided about single payments, as their word; rows are only added, but for a purge';
COMMENT ON COLUMN payment_decision.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_decision.decided_at IS 'When it was decided';
COMMENT ON COLUMN payment_decision.decision IS 'charged: recorded as settled; not charged: free to go to any processor; discarded: a dead letter was forgotten';
COMMENT ON COLUMN payment_decision.amount IS 'The amount of the payment';
COMMENT ON COLUMN payment_decision.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN payment_decision.processor IS 'The processor that the decision is about';
COMMENT ON COLUMN payment_decision.requested_at IS 'The requestedAt that the decision is about; of a charge, the one that was recorded';
COMMENT ON COLUMN payment_decision.decided_by IS 'Who decided, as he said';
COMMENT ON COLUMN payment_decision.database_role IS 'The role that the decision came by';
COMMENT ON COLUMN payment_decision.reason IS 'Why, in the words of whoever decided';

-- Ends payments in doubt on an operator's word. A payment whose newest claim may still be at work is left alone, and so
-- is one that "was not charged" while a call to its processor may still charge it. The number of claims grows, so that a
-- late failure of an older claim changes nothing; a late success is recorded by settle_payments as ever.
--
-- With the rights of the owner: the service's role may only add to the ledger what it has charged by itself, and
-- may add decisions in no other way.
CREATE FUNCTION decide_in_doubt(
    ids uuid[], requested timestamptz[], was_charged boolean, by_whom text, why text, dry_run boolean
) RETURNS TABLE (correlation_id uuid, outcome text, processor text, requested_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    -- A requestedAt that is further from what can have been sent is a mistake.
    slack CONSTANT interval := '1 day';
    wanted record;
    held   payment_queue;
    stamp  timestamptz;
BEGIN
    IF by_whom = '' OR why = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'a decision needs an author and a reason';
    END IF;
    FOR wanted IN
        SELECT DISTINCT ON (i.id) i.id, i.stamp FROM unnest(ids, requested) AS i (id, stamp) ORDER BY i.id
    LOOP
        correlation_id := wanted.id;
        processor := NULL;
        requested_at := NULL;
        SELECT * INTO held FROM payment_queue q WHERE q.correlation_id = wanted.id FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            outcome := CASE
                WHEN EXISTS (SELECT FROM payment_queue q WHERE q.correlation_id = wanted.id) THEN 'in flight'
                WHEN EXISTS (SELECT FROM payment_processed p WHERE p.correlation_id = wanted.id)
                    OR EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = wanted.id) THEN 'settled'
                WHEN EXISTS (SELECT FROM payment_dead_letter d WHERE d.correlation_id = wanted.id) THEN 'dead'
                ELSE 'unknown'
            END;
            RETURN NEXT;
            CONTINUE;
        END IF;
        processor := held.processor;
        stamp := coalesce(wanted.stamp, held.requested_at);
        requested_at := CASE WHEN was_charged THEN stamp ELSE held.requested_at END;
        outcome := CASE
            WHEN held.processor IS NULL THEN 'queued'
            WHEN EXISTS (SELECT FROM payment_processed p WHERE p.correlation_id = wanted.id)
                OR EXISTS (SELECT FROM payment_archived a WHERE a.correlation_id = wanted.id) THEN 'settled'
            -- A claim whose end is recorded has ended, and only pauses.
            WHEN held.lease_until > clock_timestamp() AND NOT EXISTS (
                SELECT FROM payment_attempt t
                WHERE t.correlation_id = wanted.id AND t.last_claim >= held.attempt
            ) THEN 'in flight'
            WHEN NOT was_charged AND held.doubt_until > clock_timestamp() THEN 'too early'
            WHEN was_charged AND stamp NOT BETWEEN held.accepted_at - slack AND clock_timestamp() + slack
                THEN 'out of range'
            ELSE 'done'
        END;
        IF outcome = 'done' AND NOT dry_run THEN
            INSERT INTO payment_decision
                (correlation_id, decision, amount, accepted_at, processor, requested_at, decided_by, reason)
            VALUES (wanted.id, CASE WHEN was_charged THEN 'charged' ELSE 'not charged' END, held.amount,
                held.accepted_at, held.processor, decide_in_doubt.requested_at, by_whom, why);
            IF was_charged THEN
                DELETE FROM payment_queue q WHERE q.id = held.id;
                INSERT INTO payment_processed
                    (correlation_id, amount, processor, requested_at, accepted_at, attempt)
                VALUES (wanted.id, held.amount, held.processor, stamp, held.accepted_at, held.attempt);
            ELSE
                UPDATE payment_queue q
                SET processor = NULL, requested_at = NULL, doubt_until = NULL, lease_until = '-infinity',
                    attempt = q.attempt + 1
                WHERE q.id = held.id;
                INSERT INTO payment_attempt AS t
                    (correlation_id, requested_at, outcome, processor, reason, first_claim, last_claim)
                VALUES (wanted.id, held.requested_at, 'not charged', held.processor,
                    format('%s said so: %s', by_whom, why), held.attempt, held.attempt)
                ON CONFLICT ON CONSTRAINT payment_attempt_pkey DO UPDATE
                SET reason = excluded.reason, last_claim = excluded.last_claim, last_ended_at = excluded.last_ended_at;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION decide_in_doubt IS 'Ends payments in doubt as an operator says, who has asked their processor by other means: charged (under requested, or what was sent) or not. Says per payment what came of it; with dry_run, what would';

-- Forgets dead letters for good, and remembers who did it.
CREATE FUNCTION discard_dead_letters(ids uuid[], by_whom text, why text) RETURNS SETOF uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
BEGIN ATOMIC
    WITH discarded AS (
        DELETE FROM payment_dead_letter d WHERE d.correlation_id = ANY (ids) RETURNING d.*
    )
    INSERT INTO payment_decision
        (correlation_id, decision, amount, accepted_at, processor, requested_at, decided_by, reason)
    SELECT d.correlation_id, 'discarded', d.amount, d.accepted_at, d.processor, d.requested_at, by_whom, why
    FROM discarded d ORDER BY d.correlation_id
    RETURNING correlation_id;
END;
COMMENT ON FUNCTION discard_dead_letters IS 'Forgets dead letters for good and records who did so and why; returns their ids, which may be posted again';

-- `migrate` grants these to the service.
REVOKE EXECUTE ON FUNCTION decide_in_doubt, discard_dead_letters FROM PUBLIC;

-- As before, with the decisions. A payment that was discarded is known by its decision only, and its attempts.
CREATE OR REPLACE FUNCTION audit.life(payment_id uuid)
RETURNS TABLE (at timestamptz, event text, processor text, requested_at timestamptz, claim integer, detail text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT e.at, e.event, e.processor, e.requested_at, e.claim, e.detail FROM (
        SELECT 1 AS step, p.accepted_at AS at, 'accepted' AS event, NULL AS processor, NULL::timestamptz AS requested_at,
            NULL::integer AS claim, 'amount ' || p.amount AS detail
        FROM audit.payment p WHERE p.correlation_id = payment_id AND p.accepted_at IS NOT NULL
        UNION
        SELECT 1, d.accepted_at, 'accepted', NULL, NULL, NULL, 'amount ' || d.amount
        FROM payment_decision d WHERE d.correlation_id = payment_id
        UNION ALL
        SELECT 2, a.requested_at, 'claimed', a.processor, a.requested_at, min(a.first_claim), NULL
        FROM audit.attempt a WHERE a.correlation_id = payment_id GROUP BY a.processor, a.requested_at
        UNION ALL
        SELECT 3, a.first_ended_at, a.outcome, a.processor, a.requested_at, a.first_claim,
            a.reason || CASE WHEN a.last_claim > a.first_claim
                THEN format(' (so until claim %s, recorded %s)', a.last_claim, a.last_ended_at) ELSE '' END
        FROM audit.attempt a WHERE a.correlation_id = payment_id AND a.outcome NOT IN ('charged', 'open')
        UNION ALL
        SELECT 4, d.decided_at,
            CASE d.decision WHEN 'discarded' THEN 'discarded' ELSE 'decided' END,
            d.processor, d.requested_at, NULL,
            format('%s (as %s) said%s: %s', d.decided_by, d.database_role,
                CASE WHEN d.decision = 'discarded' THEN '' ELSE ' ' || d.decision END, d.reason)
        FROM payment_decision d WHERE d.correlation_id = payment_id
        UNION ALL
        SELECT 5, p.ended_at, p.state, p.processor, p.requested_at, p.claims, p.reason
        FROM audit.payment p WHERE p.correlation_id = payment_id AND p.ended_at IS NOT NULL
        UNION ALL
        SELECT 6, m.exported_at, 'archived', NULL, NULL, NULL, 'amount ' || a.amount || ', settled; the rest is in ' || m.file
        FROM payment_archived a JOIN payment_archived_month m USING (month) WHERE a.correlation_id = payment_id
    ) AS e
    ORDER BY date_trunc('milliseconds', e.at), e.step, e.at;
END;
COMMENT ON FUNCTION audit.life IS 'What happened to the payment with the id payment_id, in order: accepted; claimed for a processor; what came of it, unless it was the charge; what an operator decided; settled, dead or discarded; of an archived one, which file has it';

CREATE VIEW audit.decision AS
SELECT correlation_id, decided_at, decision, decided_by, database_role, reason, amount, accepted_at, processor, requested_at
FROM payment_decision;
COMMENT ON VIEW audit.decision IS 'What operators decided about single payments, as their word: payment-proxy in-doubt and dead-letter discard';
COMMENT ON COLUMN audit.decision.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN audit.decision.decided_at IS 'When it was decided';
COMMENT ON COLUMN audit.decision.decision IS 'charged, not charged, or discarded';
COMMENT ON COLUMN audit.decision.decided_by IS 'Who decided, as he said';
COMMENT ON COLUMN audit.decision.database_role IS 'The role that the decision came by';
COMMENT ON COLUMN audit.decision.reason IS 'Why';
COMMENT ON COLUMN audit.decision.amount IS 'The amount of the payment';
COMMENT ON COLUMN audit.decision.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN audit.decision.processor IS 'The processor that the decision is about';
COMMENT ON COLUMN audit.decision.requested_at IS 'The requestedAt that it is about; of a charge, the one that was recorded';

-- The auditor's rights to what is new here, where the defaults of this installation do not give them.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'auditor') THEN
        GRANT SELECT ON payment_decision, audit.decision TO auditor;
    END IF;
END $$;
