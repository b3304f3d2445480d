-- What auditors ask in psql, read only: docs/auditing.md has an example of each question.

CREATE SCHEMA audit;

CREATE VIEW audit.payment AS
SELECT correlation_id, 'settled' AS state, amount, accepted_at, processor, requested_at,
    settled_at AS ended_at, attempt AS claims, NULL AS reason
FROM payment_processed
UNION ALL
SELECT correlation_id, 'dead', amount, accepted_at, processor, requested_at,
    died_at, attempt, reason
FROM payment_dead_letter
UNION ALL
SELECT correlation_id,
    CASE WHEN processor IS NULL THEN 'queued'
        WHEN lease_until > now() THEN 'in_flight' ELSE 'in_doubt' END,
    amount, accepted_at, processor, requested_at, NULL, attempt, NULL
FROM payment_queue
UNION ALL
SELECT correlation_id, 'archived', amount, NULL, NULL, NULL, NULL, NULL, NULL
FROM payment_archived;

CREATE VIEW audit.attempt AS
SELECT correlation_id, processor, requested_at, outcome, reason, first_claim, last_claim,
    first_ended_at, last_ended_at
FROM payment_attempt
UNION ALL
SELECT correlation_id, processor, requested_at, 'charged', NULL, attempt, attempt,
    settled_at, settled_at
FROM payment_processed
UNION ALL
SELECT correlation_id, processor, requested_at, 'open', NULL, attempt, attempt, NULL, NULL
FROM payment_queue WHERE processor IS NOT NULL AND lease_until > now();

CREATE VIEW audit.dead_letter AS
SELECT correlation_id, amount, processor, reason, accepted_at, died_at,
    now() - died_at AS age, attempt AS claims, requested_at IS NOT NULL AS held
FROM payment_dead_letter;

CREATE VIEW audit.fee AS
SELECT processor, valid_from,
    lead(valid_from, 1, 'infinity') OVER (PARTITION BY processor ORDER BY valid_from)
        AS valid_until,
    fee
FROM processor_fee;

CREATE VIEW audit.decision AS
SELECT correlation_id, decided_at, decision, decided_by, database_role, reason, amount,
    accepted_at, processor, requested_at
FROM payment_decision;

CREATE VIEW audit.emptied_queue AS
SELECT noticed_at, acknowledged_at, acknowledged_by, acknowledging_role, acknowledged_reason
FROM payment_queue_emptied;

-- A question that makes no sense is an error, which is better than a wrong table. The first two
-- return true, so that a query asks them once, in its WHERE.
CREATE FUNCTION audit.refuse_upside_down(first timestamptz, last timestamptz) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF first > last THEN
        RAISE EXCEPTION 'the range is upside down: it begins at % and ends at %', first, last
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION audit.refuse_null(argument text, is_null boolean) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF is_null THEN
        RAISE EXCEPTION '% must not be null', argument USING ERRCODE = 'null_value_not_allowed';
    END IF;
    RETURN true;
END $$;

CREATE FUNCTION audit.refuse_part_of_hour(hour timestamptz) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE EXCEPTION
        'the single payments of the hour from % are archived: only all of it can be added up', hour
        USING HINT = 'Begin and end with a whole hour, such as 12:00:00 to 12:59:59.999999 UTC, '
            'or restore that month';
END $$;

-- a0 to z0 is the range, a1 to z1 the whole seconds in it, and so on; where there is none, both are
-- the end of the range, and the finer piece before them covers all of it. The service cuts a range
-- in the same way (src/summary.rs).
CREATE FUNCTION audit.pieces(from_time timestamptz, to_time timestamptz)
RETURNS TABLE (unit text, starts_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE ROWS 7
BEGIN ATOMIC
    SELECT v.unit, v.starts_at, v.ends_at
    FROM (
        SELECT coalesce(from_time, '-infinity') AS a0,
            coalesce(to_time + interval '1 microsecond', 'infinity') AS z0
    ) AS r
    CROSS JOIN LATERAL (
        SELECT date_trunc('second', a0 + interval '0.999999 s', 'UTC') AS a,
            date_trunc('second', z0, 'UTC') AS z
    ) AS s
    CROSS JOIN LATERAL (
        SELECT CASE WHEN s.a < s.z THEN s.a ELSE z0 END AS a1,
            CASE WHEN s.a < s.z THEN s.z ELSE z0 END AS z1
    ) AS s1
    CROSS JOIN LATERAL (
        SELECT date_trunc('minute', a1 + interval '59.999999 s', 'UTC') AS a,
            date_trunc('minute', z1, 'UTC') AS z
    ) AS m
    CROSS JOIN LATERAL (
        SELECT CASE WHEN m.a < m.z THEN m.a ELSE z1 END AS a2,
            CASE WHEN m.a < m.z THEN m.z ELSE z1 END AS z2
    ) AS m1
    CROSS JOIN LATERAL (
        SELECT date_trunc('hour', a2 + interval '59:59.999999' MINUTE TO SECOND, 'UTC') AS a,
            date_trunc('hour', z2, 'UTC') AS z
    ) AS h
    CROSS JOIN LATERAL (
        SELECT CASE WHEN h.a < h.z THEN h.a ELSE z2 END AS a3,
            CASE WHEN h.a < h.z THEN h.z ELSE z2 END AS z3
    ) AS h1
    CROSS JOIN LATERAL (
        VALUES ('hour', a3, z3), ('minute', a2, a3), ('minute', z3, z2), ('second', a1, a2),
            ('second', z2, z1), ('payment', a0, a1), ('payment', z1, z0)
    ) AS v (unit, starts_at, ends_at)
    WHERE v.starts_at < v.ends_at AND audit.refuse_upside_down(from_time, to_time);
END;

-- Number and sum in the ledger, without what is archived. In PL/pgSQL, which keeps the plan: to
-- make it takes longer than to execute it, and the page asks once a second.
CREATE FUNCTION audit.recorded(from_time timestamptz, to_time timestamptz)
RETURNS TABLE (processor text, payments bigint, amount numeric)
LANGUAGE plpgsql STABLE
-- By key, however little the planner knows of tables that grow fast.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT part.processor, sum(part.payments)::bigint, sum(part.amount)
    FROM (
        SELECT r.processor, r.requests AS payments, r.amount
        FROM audit.pieces(from_time, to_time) AS p
        JOIN payment_rollup r
            ON r.unit = p.unit AND r.starts_at >= p.starts_at AND r.starts_at < p.ends_at
        WHERE p.unit <> 'payment'
        UNION ALL
        SELECT b.processor, 1, b.amount
        FROM audit.pieces(from_time, to_time) AS p
        JOIN payment_processed b ON b.requested_at >= p.starts_at AND b.requested_at < p.ends_at
        WHERE p.unit = 'payment'
    ) AS part
    GROUP BY part.processor HAVING sum(part.payments) <> 0;
END $$;

-- Of what is archived, whole hours; an error where the range has a part of one.
CREATE FUNCTION audit.archived(from_time timestamptz, to_time timestamptz)
RETURNS TABLE (
    starts_at timestamptz, processor text, fee_since timestamptz, payments bigint, amount numeric
)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT h.starts_at, h.processor, h.fee_since, h.requests, h.amount
    FROM audit.pieces(from_time, to_time) AS p
    JOIN payment_archived_hour h ON h.starts_at >= p.starts_at AND h.starts_at < p.ends_at
    WHERE p.unit = 'hour'
    UNION ALL
    SELECT h.starts_at, audit.refuse_part_of_hour(h.starts_at), h.fee_since, 0, 0
    FROM audit.pieces(from_time, to_time) AS p
    JOIN payment_archived_hour h
        ON h.starts_at > p.starts_at - interval '1 hour' AND h.starts_at < p.ends_at
    WHERE p.unit <> 'hour';
END $$;

CREATE FUNCTION audit.summary(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (processor text, total_requests bigint, total_amount numeric)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    PERFORM audit.refuse_upside_down(from_time, to_time);
    RETURN QUERY
    SELECT part.processor, sum(part.payments)::bigint, sum(part.amount)
    FROM (
        SELECT r.processor, r.payments, r.amount FROM audit.recorded(from_time, to_time) AS r
        UNION ALL
        SELECT a.processor, a.payments, a.amount FROM audit.archived(from_time, to_time) AS a
        UNION ALL SELECT f.processor, 0, 0 FROM processor_fee f
    ) AS part
    GROUP BY part.processor ORDER BY part.processor;
END $$;

CREATE FUNCTION audit.totals(unit text, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (starts_at timestamptz, processor text, payments bigint, amount numeric)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := coalesce(from_time, '-infinity');
    ends   CONSTANT timestamptz := coalesce(to_time, 'infinity');
    -- Finer than what is left of archived payments.
    fine   CONSTANT boolean := coalesce(totals.unit IN ('second', 'minute'), false);
BEGIN
    IF totals.unit IS NULL
        OR totals.unit NOT IN ('second', 'minute', 'hour', 'day', 'week', 'month')
    THEN
        RAISE EXCEPTION
            'there is no unit %; the units are second, minute, hour, day, week and month',
            coalesce(quote_literal(totals.unit), 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM audit.refuse_upside_down(begins, ends);
    RETURN QUERY
    SELECT date_trunc(totals.unit, r.starts_at, 'UTC'), r.processor,
        sum(r.requests)::bigint, sum(r.amount)
    FROM (
        SELECT p.starts_at, p.processor, p.requests, p.amount
        FROM payment_rollup p
        WHERE p.unit = CASE WHEN fine THEN totals.unit ELSE 'hour' END
            AND p.starts_at >= date_trunc(totals.unit, begins, 'UTC') AND p.starts_at < ends
        UNION ALL
        SELECT h.starts_at,
            CASE WHEN fine THEN audit.refuse_part_of_hour(h.starts_at) ELSE h.processor END,
            h.requests, h.amount
        FROM payment_archived_hour h
        WHERE h.starts_at > date_trunc(totals.unit, begins, 'UTC')
                - CASE WHEN fine THEN interval '1 hour' ELSE interval '1 microsecond' END
            AND h.starts_at < ends
    ) AS r
    GROUP BY 1, 2 HAVING sum(r.requests) <> 0
    ORDER BY 1, 2;
END $$;

CREATE FUNCTION audit.fee_at(name text, moment timestamptz) RETURNS numeric LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT f.fee FROM processor_fee f WHERE f.processor = name AND f.valid_from <= moment
        AND audit.refuse_null('name', name IS NULL) AND audit.refuse_null('moment', moment IS NULL)
    ORDER BY f.valid_from DESC LIMIT 1;
END;

-- What a processor kept is told by this function, to auditors, the page and the command line alike.
-- A term is a time in which no fee of any processor changed.
CREATE FUNCTION audit.fees(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (
    processor text, since timestamptz, fee_share numeric, payments bigint, amount numeric,
    fee numeric, net numeric
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := coalesce(from_time, '-infinity');
    ends   CONSTANT timestamptz := coalesce(to_time, 'infinity');
BEGIN
    PERFORM audit.refuse_upside_down(begins, ends);
    RETURN QUERY
    WITH term AS MATERIALIZED (
        SELECT t.starts_at,
            lead(t.starts_at - interval '1 microsecond', 1, ends) OVER (ORDER BY t.starts_at)
                AS last
        FROM (
            SELECT begins AS starts_at
            UNION
            SELECT f.valid_from FROM processor_fee f
            WHERE f.valid_from > begins AND f.valid_from <= ends
        ) AS t
    ), part AS (
        SELECT r.processor, t.starts_at AS since, r.payments, r.amount
        FROM term t CROSS JOIN LATERAL audit.recorded(t.starts_at, t.last) AS r
        UNION ALL
        SELECT a.processor, greatest(a.starts_at, a.fee_since), a.payments, a.amount
        FROM audit.archived(from_time, to_time) AS a
    ), total AS (
        SELECT p.processor,
            (SELECT max(t.starts_at) FROM term t WHERE t.starts_at <= p.since) AS since,
            sum(p.payments)::bigint AS payments, sum(p.amount) AS amount
        FROM part p GROUP BY 1, 2
    )
    SELECT t.processor, t.since, s.share, t.payments, t.amount,
        t.amount * s.share, t.amount - t.amount * s.share
    FROM total t
    CROSS JOIN LATERAL (SELECT audit.fee_at(t.processor, t.since) AS share) AS s
    WHERE t.payments <> 0
    ORDER BY t.processor, t.since;
END $$;

CREATE FUNCTION audit.fees_by_day(first_day date, last_day date)
RETURNS TABLE (
    day date, processor text, fee_share numeric, payments bigint, amount numeric, fee numeric,
    net numeric
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz :=
        coalesce(first_day, '-infinity')::timestamp AT TIME ZONE 'UTC';
    ends   CONSTANT timestamptz :=
        coalesce(last_day, 'infinity')::timestamp AT TIME ZONE 'UTC' + interval '1 day';
    days   CONSTANT date[] := ARRAY(
        SELECT DISTINCT (h.starts_at AT TIME ZONE 'UTC')::date FROM (
            SELECT r.starts_at FROM payment_rollup r WHERE r.unit = 'hour' AND r.requests <> 0
            UNION ALL SELECT a.starts_at FROM payment_archived_hour a
        ) AS h WHERE h.starts_at >= begins AND h.starts_at < ends
    );
BEGIN
    PERFORM audit.refuse_upside_down(begins, ends - interval '1 day');
    RETURN QUERY
    SELECT d.day, f.processor, f.fee_share, sum(f.payments)::bigint, sum(f.amount),
        sum(f.fee), sum(f.net)
    FROM unnest(days) AS d (day)
    CROSS JOIN LATERAL audit.fees(
        d.day::timestamp AT TIME ZONE 'UTC',
        (d.day + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 microsecond'
    ) AS f
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, min(f.since);
END $$;

CREATE FUNCTION audit.open_payments(older_than interval DEFAULT '1 minute')
RETURNS TABLE (
    correlation_id uuid, amount numeric, accepted_at timestamptz, age interval, state text,
    claims integer, processor text, requested_at timestamptz, doubt_until timestamptz,
    last_outcome text, reason text
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    PERFORM audit.refuse_null('older_than', older_than IS NULL);
    RETURN QUERY
    SELECT q.correlation_id, q.amount::numeric, q.accepted_at, now() - q.accepted_at,
        CASE WHEN q.processor IS NULL THEN 'queued'
            WHEN q.lease_until > now() THEN 'in_flight' ELSE 'in_doubt' END,
        q.attempt, q.processor, q.requested_at, q.doubt_until, a.outcome, a.reason
    FROM payment_queue q
    LEFT JOIN LATERAL (
        SELECT t.outcome, t.reason FROM payment_attempt t
        WHERE t.correlation_id = q.correlation_id ORDER BY t.last_ended_at DESC LIMIT 1
    ) AS a ON true
    WHERE now() - q.accepted_at > older_than
    ORDER BY q.accepted_at;
END $$;

-- The requested_at of a claim has whole milliseconds, so it may seem to be earlier than the
-- acceptance in the same millisecond. Within one, events are told in the only order that they can
-- have happened in. A payment that was discarded is known by its decision only, and its attempts.
CREATE FUNCTION audit.life(payment_id uuid)
RETURNS TABLE (
    at timestamptz, event text, processor text, requested_at timestamptz, claim integer, detail text
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    PERFORM audit.refuse_null('payment_id', payment_id IS NULL);
    RETURN QUERY
    SELECT e.at, e.event, e.processor, e.requested_at, e.claim, e.detail FROM (
        SELECT 1 AS step, p.accepted_at AS at, 'accepted' AS event, NULL AS processor,
            NULL::timestamptz AS requested_at, NULL::integer AS claim,
            'amount ' || p.amount AS detail
        FROM audit.payment p WHERE p.correlation_id = payment_id AND p.accepted_at IS NOT NULL
        UNION
        SELECT 1, d.accepted_at, 'accepted', NULL, NULL, NULL, 'amount ' || d.amount
        FROM payment_decision d WHERE d.correlation_id = payment_id
        UNION ALL
        SELECT 2, a.requested_at, 'claimed', a.processor, a.requested_at, min(a.first_claim), NULL
        FROM audit.attempt a WHERE a.correlation_id = payment_id
        GROUP BY a.processor, a.requested_at
        UNION ALL
        SELECT 3, a.first_ended_at, a.outcome, a.processor, a.requested_at, a.first_claim,
            a.reason || CASE WHEN a.last_claim > a.first_claim
                THEN format(' (so until claim %s, recorded %s)', a.last_claim, a.last_ended_at)
                ELSE '' END
        FROM audit.attempt a
        WHERE a.correlation_id = payment_id AND a.outcome NOT IN ('charged', 'open')
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
        SELECT 6, m.exported_at, 'archived', NULL, NULL, NULL,
            'amount ' || a.amount || ', settled; the rest is in ' || m.file
        FROM payment_archived a JOIN payment_archived_month m USING (month)
        WHERE a.correlation_id = payment_id
    ) AS e
    ORDER BY date_trunc('milliseconds', e.at), e.step, e.at;
END $$;

CREATE FUNCTION audit.balance(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (
    hour timestamptz, accepted bigint, settled bigint, archived bigint, dead bigint, open bigint,
    discarded bigint, missing bigint, uncounted bigint, amount_missing numeric
)
LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := date_trunc('hour', coalesce(from_time, '-infinity'), 'UTC');
    ends   CONSTANT timestamptz := coalesce(to_time, 'infinity');
    -- For a second after a purge an instance may add what it had counted before.
    purged CONSTANT timestamptz := (
        SELECT date_trunc('hour', max(c.changed_at), 'UTC')
        FROM ledger_change c WHERE c.change = 'emptied'
    );
BEGIN
    PERFORM audit.refuse_upside_down(coalesce(from_time, '-infinity'), ends);
    RETURN QUERY
    WITH part AS (
        SELECT h.starts_at AS hour, h.payments AS accepted, 0::bigint AS settled, h.archived,
            0::bigint AS dead, 0::bigint AS open, 0::bigint AS discarded,
            h.amount - h.archived_amount AS amount
        FROM payment_accepted_hour h WHERE h.starts_at >= begins AND h.starts_at < ends
        UNION ALL
        -- Nothing is charged before it is accepted; a day is for clocks that are set back.
        SELECT date_bin('1 hour', p.accepted_at, 'epoch'), 0, count(*), 0, 0, 0, 0, -sum(p.amount)
        FROM payment_processed p
        WHERE p.requested_at >= begins - interval '1 day'
            AND p.accepted_at >= begins AND p.accepted_at < ends
        GROUP BY 1
        UNION ALL
        SELECT date_bin('1 hour', d.accepted_at, 'epoch'), 0, 0, 0, count(*), 0, 0, -sum(d.amount)
        FROM payment_dead_letter d WHERE d.accepted_at >= begins AND d.accepted_at < ends GROUP BY 1
        UNION ALL
        SELECT date_bin('1 hour', q.accepted_at, 'epoch'), 0, 0, 0, 0, count(*), 0, -sum(q.amount)
        FROM payment_queue q WHERE q.accepted_at >= begins AND q.accepted_at < ends
            AND NOT EXISTS (
                SELECT FROM payment_processed p WHERE p.correlation_id = q.correlation_id
            )
            AND NOT EXISTS (
                SELECT FROM payment_dead_letter d WHERE d.correlation_id = q.correlation_id
            )
        GROUP BY 1
        UNION ALL
        SELECT date_bin('1 hour', d.accepted_at, 'epoch'), 0, 0, 0, 0, 0, count(*), -sum(d.amount)
        FROM payment_decision d
        WHERE d.decision = 'discarded' AND d.accepted_at >= begins AND d.accepted_at < ends
        GROUP BY 1
    ), total AS (
        SELECT p.hour, sum(p.accepted)::bigint AS accepted, sum(p.settled)::bigint AS settled,
            sum(p.archived)::bigint AS archived, sum(p.dead)::bigint AS dead,
            sum(p.open)::bigint AS open, sum(p.discarded)::bigint AS discarded,
            sum(p.amount) AS amount
        FROM part p GROUP BY p.hour
    )
    SELECT t.hour, t.accepted, t.settled, t.archived, t.dead, t.open, t.discarded,
        CASE WHEN t.hour > purged IS NOT FALSE THEN greatest(d.difference, 0) END,
        CASE WHEN t.hour > purged IS NOT FALSE THEN greatest(-d.difference, 0) END,
        CASE WHEN t.hour > purged IS NOT FALSE THEN t.amount END
    FROM total t
    CROSS JOIN LATERAL (
        SELECT t.accepted - t.settled - t.archived - t.dead - t.open - t.discarded AS difference
    ) AS d
    ORDER BY t.hour;
END $$;

COMMENT ON SCHEMA audit IS
    'Questions of auditors; read only. docs/auditing.md has an example of each';
COMMENT ON VIEW audit.payment IS 'Every payment, in the one state that it is in';
COMMENT ON COLUMN audit.payment.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN audit.payment.state IS
    'queued: no processor can have charged it; in flight: a processor is being asked; in doubt: '
    'that processor may have charged it and will be asked; settled: charged; archived: charged in '
    'a month that is in a file, where the rest about it is; dead: refused for good';
COMMENT ON COLUMN audit.payment.amount IS 'What is charged, or was to be';
COMMENT ON COLUMN audit.payment.accepted_at IS
    'When the payment was accepted; null where it is archived';
COMMENT ON COLUMN audit.payment.processor IS
    'The processor that charged it, may have, or refused it';
COMMENT ON COLUMN audit.payment.requested_at IS 'The requestedAt that this processor was sent';
COMMENT ON COLUMN audit.payment.ended_at IS
    'When it was settled or became a dead letter; null while it is open';
COMMENT ON COLUMN audit.payment.claims IS
    'How often a worker has taken it up; null where it is archived';
COMMENT ON COLUMN audit.payment.reason IS 'Why it is dead';
COMMENT ON VIEW audit.attempt IS 'Every attempt to charge a payment, and how it ended';
COMMENT ON COLUMN audit.attempt.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN audit.attempt.processor IS 'The processor that was asked';
COMMENT ON COLUMN audit.attempt.requested_at IS 'The requestedAt of the attempt: when it was made';
COMMENT ON COLUMN audit.attempt.outcome IS
    'charged, not charged, in doubt, refused, or open: it has not ended';
COMMENT ON COLUMN audit.attempt.reason IS 'What was seen of one that did not charge';
COMMENT ON COLUMN audit.attempt.first_claim IS
    'Number of the first claim of the payment with this outcome under this requested_at';
COMMENT ON COLUMN audit.attempt.last_claim IS 'Number of the last one';
COMMENT ON COLUMN audit.attempt.first_ended_at IS 'When this outcome was recorded the first time';
COMMENT ON COLUMN audit.attempt.last_ended_at IS 'When it was recorded the last time';
COMMENT ON VIEW audit.dead_letter IS
    'Payments that no processor takes and that wait for an operator: payment-proxy dead-letter';
COMMENT ON COLUMN audit.dead_letter.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN audit.dead_letter.amount IS 'What was to be charged';
COMMENT ON COLUMN audit.dead_letter.processor IS 'The processor that refused it';
COMMENT ON COLUMN audit.dead_letter.reason IS 'Why';
COMMENT ON COLUMN audit.dead_letter.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN audit.dead_letter.died_at IS 'When it became a dead letter';
COMMENT ON COLUMN audit.dead_letter.age IS 'How long ago that is';
COMMENT ON COLUMN audit.dead_letter.claims IS 'How often a worker had taken it up';
COMMENT ON COLUMN audit.dead_letter.held IS 'That processor holds the id, so a retry asks no other';
COMMENT ON VIEW audit.fee IS 'The fee of each processor by time';
COMMENT ON COLUMN audit.fee.processor IS 'Name of the processor';
COMMENT ON COLUMN audit.fee.valid_from IS 'The first requestedAt with this fee';
COMMENT ON COLUMN audit.fee.valid_until IS
    'The first requestedAt with another; infinity: it is the present one';
COMMENT ON COLUMN audit.fee.fee IS 'The share of each amount that the processor keeps';
COMMENT ON VIEW audit.decision IS
    'What operators decided about single payments, as their word: payment-proxy in-doubt and '
    'dead-letter discard';
COMMENT ON COLUMN audit.decision.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN audit.decision.decided_at IS 'When it was decided';
COMMENT ON COLUMN audit.decision.decision IS 'charged, not charged, or discarded';
COMMENT ON COLUMN audit.decision.decided_by IS 'Who decided, as he said';
COMMENT ON COLUMN audit.decision.database_role IS 'The role that the decision came by';
COMMENT ON COLUMN audit.decision.reason IS 'Why';
COMMENT ON COLUMN audit.decision.amount IS 'The amount of the payment';
COMMENT ON COLUMN audit.decision.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN audit.decision.processor IS 'The processor that the decision is about';
COMMENT ON COLUMN audit.decision.requested_at IS
    'The requestedAt that it is about; of a charge, the one that was recorded';
COMMENT ON VIEW audit.emptied_queue IS
    'Each time that a crash or a failover of the database server emptied an unlogged queue, and '
    'who acknowledged it';
COMMENT ON COLUMN audit.emptied_queue.noticed_at IS 'When an instance noticed it';
COMMENT ON COLUMN audit.emptied_queue.acknowledged_at IS
    'When an operator acknowledged it; null: nobody has';
COMMENT ON COLUMN audit.emptied_queue.acknowledged_by IS 'Who did so, as he said';
COMMENT ON COLUMN audit.emptied_queue.acknowledging_role IS 'The role that it was done by';
COMMENT ON COLUMN audit.emptied_queue.acknowledged_reason IS 'What was done about it';
COMMENT ON FUNCTION audit.refuse_upside_down IS
    'Raises an error where first is after last; true otherwise';
COMMENT ON FUNCTION audit.refuse_null IS
    'Raises an error that names the argument where is_null; true otherwise';
COMMENT ON FUNCTION audit.refuse_part_of_hour IS
    'Raises an error: a question was about a part of that hour, of which only the totals are left';
COMMENT ON FUNCTION audit.pieces IS
    'The range from from_time to to_time, both included, null for an open end, cut into whole '
    'hours, minutes and seconds (UTC), and what is left at its edges, of which single payments '
    'are counted. An error where the range is upside down';
COMMENT ON FUNCTION audit.recorded IS
    'Payments and their sum by processor, with requested_at from from_time to to_time, both '
    'included, null for an open end; without what is archived';
COMMENT ON FUNCTION audit.archived IS
    'Archived payments and their sum by hour and processor, with requested_at from from_time to '
    'to_time, both included, null for an open end. An error where the range begins or ends inside '
    'of an hour that is archived';
COMMENT ON FUNCTION audit.summary IS
    'What GET /payments-summary says: payments (total_requests) and their sum (total_amount) by '
    'processor, with requested_at from from_time to to_time, both included, null for an open end. '
    'Processors that were ever configured are there with 0. An error where the range begins or '
    'ends inside of an hour that is archived, or is upside down';
COMMENT ON FUNCTION audit.totals IS
    'Number and sum of the payments by processor and interval of requested_at, in UTC. unit: '
    'second, minute, hour, day, week or month; from_time: the first interval is the one that it '
    'is in; to_time: intervals begin before it; null for an open end. Intervals without payments '
    'are left out. An error for any other unit, for a range that is upside down, and for seconds '
    'and minutes of hours that are archived';
COMMENT ON FUNCTION audit.fee_at IS
    'The share that the processor with that name keeps of a payment with requested_at = moment; '
    'null where nobody knows it. An error where name or moment is null';
COMMENT ON FUNCTION audit.fees IS
    'What each processor kept of the payments with requested_at from from_time to to_time, both '
    'included, null for an open end: a row for each time, since when no fee of any processor '
    'changed. fee_share, fee and net are null where nobody knows the fee. The page, payment-proxy '
    'summary and audit.fees_by_day say what this says. An error where the range begins or ends '
    'inside of an hour that is archived, or is upside down';
COMMENT ON FUNCTION audit.fees_by_day IS
    'What each processor kept of the payments of each day (UTC, by requested_at) from first_day '
    'to last_day, both included, null for an open end. A day on which a fee changed has a row for '
    'each fee; fee is null where nobody knows it. An error where last_day is before first_day';
COMMENT ON FUNCTION audit.open_payments IS
    'Payments that were accepted longer than older_than ago and are not settled, the oldest '
    'first, with the outcome and the reason of their last attempt. doubt_until: from then on a '
    '404 of the processor proves that it did not charge. An error where older_than is null';
COMMENT ON FUNCTION audit.life IS
    'What happened to the payment with the id payment_id, in order: accepted; claimed for a '
    'processor; what came of it, unless it was the charge; what an operator decided; settled, '
    'dead or discarded; of an archived one, which file has it. No row: nothing is known of that '
    'id. An error where payment_id is null';
COMMENT ON FUNCTION audit.balance IS
    'Payments by the hour in which they were accepted, from the hour of from_time to before '
    'to_time, null for an open end: how many were accepted, as the instances counted them, and '
    'what became of them. missing: accepted, and nowhere any more; uncounted: there, and not '
    'counted, because their instance was killed within a second or its commit was not confirmed, '
    'or because nobody accepted them; amount_missing: the sum that was accepted less the sum of '
    'what is there, so not 0 where amounts were changed. Null for hours of before a purge. An '
    'error where the range is upside down';

-- Where init.sql made the role before these tables; where it did not, init.sql grants the same.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'auditor') THEN
        GRANT USAGE ON SCHEMA public, audit TO auditor;
        GRANT SELECT ON ALL TABLES IN SCHEMA public, audit TO auditor;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public, audit GRANT SELECT ON TABLES TO auditor;
    END IF;
END $$;
