-- What auditors ask in psql, and the two tables that it takes beside the books: docs/auditing.md.

-- The first attempt of nearly every payment charges it, and payment_processed tells all there is to tell of
-- that one. So only attempts that came to something else are written here, in the statement that gives the
-- payment back: the usual way of a payment pays nothing for its history.
CREATE TABLE payment_attempt (
    correlation_id uuid        NOT NULL,
    -- One attempt is one stamp. A payment in doubt is asked for again and again under the same one: those
    -- looks share a row, so that an hour of silence leaves one row and not thousands.
    requested_at   timestamptz NOT NULL,
    outcome        text        NOT NULL,
    processor      text        NOT NULL,
    reason         text        NOT NULL,
    first_claim    integer     NOT NULL,
    last_claim     integer     NOT NULL,
    first_ended_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_ended_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT payment_attempt_pkey PRIMARY KEY (correlation_id, requested_at, outcome),
    CONSTRAINT payment_attempt_outcome_is_known CHECK (outcome IN ('not charged', 'in doubt', 'refused'))
) WITH (fillfactor = 80);
COMMENT ON TABLE payment_attempt IS 'Attempts that did not charge; the one that did is in payment_processed. Rows are never removed by the service, but by a purge';
COMMENT ON COLUMN payment_attempt.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN payment_attempt.requested_at IS 'The requestedAt of the attempt';
COMMENT ON COLUMN payment_attempt.outcome IS 'not charged: proved, the payment was free to go anywhere; in doubt: it stayed with that processor; refused: it became a dead letter';
COMMENT ON COLUMN payment_attempt.processor IS 'The processor that was asked';
COMMENT ON COLUMN payment_attempt.reason IS 'What was seen, the last time if more than once';
COMMENT ON COLUMN payment_attempt.first_claim IS 'Number of the first claim that ended so under this stamp';
COMMENT ON COLUMN payment_attempt.last_claim IS 'Number of the last one';
COMMENT ON COLUMN payment_attempt.first_ended_at IS 'When that was recorded the first time';
COMMENT ON COLUMN payment_attempt.last_ended_at IS 'When that was recorded the last time';

-- The books do not say what a processor kept: its fee is configuration, and may change.
CREATE TABLE processor_fee (
    processor  text        NOT NULL,
    valid_from timestamptz NOT NULL,
    fee        numeric     NOT NULL,
    CONSTRAINT processor_fee_pkey PRIMARY KEY (processor, valid_from),
    CONSTRAINT processor_fee_is_a_share CHECK (fee >= 0 AND fee < 1)
);
COMMENT ON TABLE processor_fee IS 'The fee of each processor and since when; an instance that starts adds what its configuration says, where that is new';
COMMENT ON COLUMN processor_fee.processor IS 'Name of the processor';
COMMENT ON COLUMN processor_fee.valid_from IS 'The first requestedAt with this fee; -infinity for the first fee that was ever configured';
COMMENT ON COLUMN processor_fee.fee IS 'The share of each amount that the processor keeps, such as 0.05';

COMMENT ON FUNCTION payment_rollup_count IS 'Trigger: adds the changed rows of payment_processed to payment_rollup, or takes them away';
COMMENT ON FUNCTION payment_rollup_clear IS 'Trigger: empties payment_rollup when payment_processed is emptied';
COMMENT ON FUNCTION booked_now IS 'Those of the payments with these ids that are settled or dead at this moment, with the amounts in the books';

CREATE SCHEMA audit;
COMMENT ON SCHEMA audit IS 'Questions of auditors; read only. docs/auditing.md has an example of each';

CREATE VIEW audit.payment AS
SELECT correlation_id, 'settled' AS state, amount, accepted_at, processor, requested_at, settled_at AS ended_at,
    attempt AS claims, NULL AS reason
FROM payment_processed
UNION ALL
SELECT correlation_id, 'dead', amount, accepted_at, processor, requested_at, died_at, attempt, reason
FROM payment_dead_letter
UNION ALL
SELECT correlation_id,
    CASE WHEN processor IS NULL THEN 'queued' WHEN lease_until > now() THEN 'in flight' ELSE 'in doubt' END,
    amount, accepted_at, processor, requested_at, NULL, attempt, NULL
FROM payment_queue;
COMMENT ON VIEW audit.payment IS 'Every payment, in the one state that it is in';
COMMENT ON COLUMN audit.payment.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN audit.payment.state IS 'queued: no processor can have charged it; in flight: a processor is being asked; in doubt: that processor may have charged it and will be asked; settled: charged; dead: refused for good';
COMMENT ON COLUMN audit.payment.amount IS 'What is charged, or was to be';
COMMENT ON COLUMN audit.payment.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN audit.payment.processor IS 'The processor that charged it, may have, or refused it';
COMMENT ON COLUMN audit.payment.requested_at IS 'The requestedAt that this processor was sent';
COMMENT ON COLUMN audit.payment.ended_at IS 'When it was settled or given up; null while it is open';
COMMENT ON COLUMN audit.payment.claims IS 'How often a worker has taken it up';
COMMENT ON COLUMN audit.payment.reason IS 'Why it is dead';

CREATE VIEW audit.attempt AS
SELECT correlation_id, processor, requested_at, outcome, reason, first_claim, last_claim, first_ended_at, last_ended_at
FROM payment_attempt
UNION ALL
SELECT correlation_id, processor, requested_at, 'charged', NULL, attempt, attempt, settled_at, settled_at
FROM payment_processed
UNION ALL
SELECT correlation_id, processor, requested_at, 'open', NULL, attempt, attempt, NULL, NULL
FROM payment_queue WHERE processor IS NOT NULL AND lease_until > now();
COMMENT ON VIEW audit.attempt IS 'Every attempt to charge a payment, and how it ended';
COMMENT ON COLUMN audit.attempt.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN audit.attempt.processor IS 'The processor that was asked';
COMMENT ON COLUMN audit.attempt.requested_at IS 'The requestedAt of the attempt: when it was made';
COMMENT ON COLUMN audit.attempt.outcome IS 'charged, not charged, in doubt, refused, or open: it has not ended';
COMMENT ON COLUMN audit.attempt.reason IS 'What was seen of one that did not charge';
COMMENT ON COLUMN audit.attempt.first_claim IS 'Number of the first claim of the payment with this outcome under this stamp';
COMMENT ON COLUMN audit.attempt.last_claim IS 'Number of the last one';
COMMENT ON COLUMN audit.attempt.first_ended_at IS 'When this outcome was recorded the first time';
COMMENT ON COLUMN audit.attempt.last_ended_at IS 'When it was recorded the last time';

CREATE VIEW audit.dead_letter AS
SELECT correlation_id, amount, processor, reason, accepted_at, died_at, now() - died_at AS age, attempt AS claims,
    requested_at IS NOT NULL AS held
FROM payment_dead_letter;
COMMENT ON VIEW audit.dead_letter IS 'Payments that no processor takes and that wait for an operator: payment-proxy dead-letter';
COMMENT ON COLUMN audit.dead_letter.correlation_id IS 'The client''s id of the payment';
COMMENT ON COLUMN audit.dead_letter.amount IS 'What was to be charged';
COMMENT ON COLUMN audit.dead_letter.processor IS 'The processor that refused it';
COMMENT ON COLUMN audit.dead_letter.reason IS 'Why';
COMMENT ON COLUMN audit.dead_letter.accepted_at IS 'When the payment was accepted';
COMMENT ON COLUMN audit.dead_letter.died_at IS 'When it was given up';
COMMENT ON COLUMN audit.dead_letter.age IS 'How long ago that is';
COMMENT ON COLUMN audit.dead_letter.claims IS 'How often a worker had taken it up';
COMMENT ON COLUMN audit.dead_letter.held IS 'That processor holds the id, so a retry asks no other';

CREATE VIEW audit.fee AS
SELECT processor, valid_from, lead(valid_from, 1, 'infinity') OVER (PARTITION BY processor ORDER BY valid_from) AS valid_until, fee
FROM processor_fee;
COMMENT ON VIEW audit.fee IS 'The fee of each processor by time';
COMMENT ON COLUMN audit.fee.processor IS 'Name of the processor';
COMMENT ON COLUMN audit.fee.valid_from IS 'The first requestedAt with this fee';
COMMENT ON COLUMN audit.fee.valid_until IS 'The first requestedAt with another; infinity: it is the present one';
COMMENT ON COLUMN audit.fee.fee IS 'The share of each amount that the processor keeps';

-- The totals of whole hours, minutes and seconds inside the range, and payment by payment what is left at
-- its edges, as the service does it (src/summary.rs). a0 to z0 is the range, a1 to z1 the whole seconds in
-- it, and so on; where there is none, both are the end of the range, and the finer piece before them covers
-- all of it.
CREATE FUNCTION audit.summary(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (processor text, total_requests bigint, total_amount numeric)
LANGUAGE sql STABLE
-- By key, however little the planner knows of tables that grow fast.
SET enable_seqscan = off
BEGIN ATOMIC
    WITH range AS MATERIALIZED (
        SELECT a0, z0, a1, z1, a2, z2, a3, z3
        FROM (
            SELECT coalesce(from_time, '-infinity') AS a0, coalesce(to_time + interval '1 microsecond', 'infinity') AS z0
        ) AS r
        CROSS JOIN LATERAL (
            SELECT date_trunc('second', a0 + interval '0.999999 s', 'UTC') AS a, date_trunc('second', z0, 'UTC') AS z
        ) AS s
        CROSS JOIN LATERAL (
            SELECT CASE WHEN s.a < s.z THEN s.a ELSE z0 END AS a1, CASE WHEN s.a < s.z THEN s.z ELSE z0 END AS z1
        ) AS s1
        CROSS JOIN LATERAL (
            SELECT date_trunc('minute', a1 + interval '59.999999 s', 'UTC') AS a, date_trunc('minute', z1, 'UTC') AS z
        ) AS m
        CROSS JOIN LATERAL (
            SELECT CASE WHEN m.a < m.z THEN m.a ELSE z1 END AS a2, CASE WHEN m.a < m.z THEN m.z ELSE z1 END AS z2
        ) AS m1
        CROSS JOIN LATERAL (
            SELECT date_trunc('hour', a2 + interval '59:59.999999' MINUTE TO SECOND, 'UTC') AS a, date_trunc('hour', z2, 'UTC') AS z
        ) AS h
        CROSS JOIN LATERAL (
            SELECT CASE WHEN h.a < h.z THEN h.a ELSE z2 END AS a3, CASE WHEN h.a < h.z THEN h.z ELSE z2 END AS z3
        ) AS h1
    ), piece AS (
        SELECT unit, starts_at, ends_at FROM range CROSS JOIN LATERAL (
            VALUES ('hour', a3, z3), ('minute', a2, a3), ('minute', z3, z2), ('second', a1, a2), ('second', z2, z1)
        ) AS v (unit, starts_at, ends_at)
    ), edge AS (
        SELECT starts_at, ends_at FROM range CROSS JOIN LATERAL (VALUES (a0, a1), (z1, z0)) AS v (starts_at, ends_at)
    ), part AS (
        SELECT r.processor, r.requests, r.amount, false AS configured
        FROM piece p JOIN payment_rollup r ON r.unit = p.unit AND r.starts_at >= p.starts_at AND r.starts_at < p.ends_at
        UNION ALL
        SELECT b.processor, 1, b.amount, false
        FROM edge e JOIN payment_processed b ON b.requested_at >= e.starts_at AND b.requested_at < e.ends_at
        UNION ALL
        SELECT f.processor, 0, 0, true FROM processor_fee f
    )
    SELECT part.processor, sum(part.requests)::bigint, sum(part.amount)
    FROM part GROUP BY part.processor HAVING sum(part.requests) <> 0 OR bool_or(part.configured)
    ORDER BY part.processor;
END;
COMMENT ON FUNCTION audit.summary IS 'What GET /payments-summary says: payments (total_requests) and their sum (total_amount) by processor, with requested_at from from_time to to_time, both included, null for an open end. Processors that were ever configured are there with 0';

CREATE FUNCTION audit.totals(unit text, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (starts_at timestamptz, processor text, payments bigint, amount numeric)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT date_trunc(totals.unit, r.starts_at, 'UTC'), r.processor, sum(r.requests)::bigint, sum(r.amount)
    FROM payment_rollup r
    WHERE r.unit = CASE WHEN totals.unit IN ('second', 'minute') THEN totals.unit ELSE 'hour' END
        AND r.starts_at >= date_trunc(totals.unit, from_time, 'UTC') AND r.starts_at < to_time
    GROUP BY 1, 2 HAVING sum(r.requests) <> 0
    ORDER BY 1, 2;
END;
COMMENT ON FUNCTION audit.totals IS 'Number and sum of the payments by processor and interval of requested_at, in UTC. unit: second, minute, hour, day, week or month; from_time: the first interval is the one that it is in; to_time: intervals begin before it. Intervals without payments are left out';

CREATE FUNCTION audit.fees_by_day(first_day date, last_day date)
RETURNS TABLE (day date, processor text, fee_share numeric, payments bigint, amount numeric, fee numeric, net numeric)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH share AS (
        SELECT f.processor, f.valid_from, f.valid_until, f.fee FROM audit.fee f
        UNION ALL
        -- In the books, and never configured since fees are recorded.
        SELECT DISTINCT r.processor, '-infinity'::timestamptz, 'infinity'::timestamptz, NULL::numeric
        FROM payment_rollup r
        WHERE r.unit = 'hour' AND NOT EXISTS (SELECT FROM processor_fee f WHERE f.processor = r.processor)
    )
    SELECT d.day, share.processor, share.fee, s.total_requests, s.total_amount,
        s.total_amount * share.fee, s.total_amount * (1 - share.fee)
    FROM (
        SELECT n.day::date AS day, n.day AT TIME ZONE 'UTC' AS begins, (n.day + interval '1 day') AT TIME ZONE 'UTC' AS ends
        FROM generate_series(first_day::timestamp, last_day::timestamp, interval '1 day') AS n (day)
    ) AS d
    JOIN share ON share.valid_from < d.ends AND share.valid_until > d.begins
    CROSS JOIN LATERAL audit.summary(
        greatest(d.begins, share.valid_from), least(d.ends, share.valid_until) - interval '1 microsecond'
    ) AS s
    WHERE s.processor = share.processor AND s.total_requests > 0
    ORDER BY d.day, share.processor, share.valid_from;
END;
COMMENT ON FUNCTION audit.fees_by_day IS 'What each processor kept of the payments of each day (UTC, by requested_at) from first_day to last_day, both included. A day on which a fee changed has a row for each fee; fee is null where nobody knows it';

CREATE FUNCTION audit.open_payments(older_than interval DEFAULT '1 minute')
RETURNS TABLE (
    correlation_id uuid, amount numeric, accepted_at timestamptz, age interval, state text, claims integer,
    processor text, requested_at timestamptz, doubt_until timestamptz, last_outcome text, reason text
)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT q.correlation_id, q.amount, q.accepted_at, now() - q.accepted_at,
        CASE WHEN q.processor IS NULL THEN 'queued' WHEN q.lease_until > now() THEN 'in flight' ELSE 'in doubt' END,
        q.attempt, q.processor, q.requested_at, q.doubt_until, a.outcome, a.reason
    FROM payment_queue q
    LEFT JOIN LATERAL (
        SELECT t.outcome, t.reason FROM payment_attempt t
        WHERE t.correlation_id = q.correlation_id ORDER BY t.last_ended_at DESC LIMIT 1
    ) AS a ON true
    WHERE q.accepted_at < now() - older_than
    ORDER BY q.accepted_at;
END;
COMMENT ON FUNCTION audit.open_payments IS 'Payments that were accepted longer than older_than ago and are not settled, the oldest first, with the outcome and the reason of their last attempt. doubt_until: from then on a 404 of the processor proves that it did not charge';

CREATE FUNCTION audit.life(payment_id uuid)
RETURNS TABLE (at timestamptz, event text, processor text, requested_at timestamptz, claim integer, detail text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p.accepted_at AS at, 'accepted', NULL, NULL::timestamptz, NULL::integer, 'amount ' || p.amount
    FROM audit.payment p WHERE p.correlation_id = payment_id
    UNION ALL
    SELECT a.requested_at, 'claimed', a.processor, a.requested_at, min(a.first_claim), NULL
    FROM audit.attempt a WHERE a.correlation_id = payment_id GROUP BY a.processor, a.requested_at
    UNION ALL
    SELECT a.first_ended_at, a.outcome, a.processor, a.requested_at, a.first_claim,
        a.reason || CASE WHEN a.last_claim > a.first_claim
            THEN format(' (so until claim %s, recorded %s)', a.last_claim, a.last_ended_at) ELSE '' END
    FROM audit.attempt a WHERE a.correlation_id = payment_id AND a.outcome NOT IN ('charged', 'open')
    UNION ALL
    SELECT p.ended_at, p.state, p.processor, p.requested_at, p.claims, p.reason
    FROM audit.payment p WHERE p.correlation_id = payment_id AND p.ended_at IS NOT NULL
    ORDER BY 1;
END;
COMMENT ON FUNCTION audit.life IS 'What happened to the payment with the id payment_id, in order: accepted; claimed for a processor; what came of it, unless it was the charge; settled or dead';

-- Where init.sql made the auditor before this migration; where it did not, init.sql does the same.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'auditor') THEN
        GRANT USAGE ON SCHEMA public, audit TO auditor;
        GRANT SELECT ON ALL TABLES IN SCHEMA public, audit TO auditor;
        ALTER DEFAULT PRIVILEGES IN SCHEMA public, audit GRANT SELECT ON TABLES TO auditor;
    END IF;
END $$;
