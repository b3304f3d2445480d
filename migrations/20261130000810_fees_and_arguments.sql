-- What a processor kept is said by one function, for auditors, the page and the command line alike; and what an
-- auditor asks for by mistake is an error and not a wrong table.

-- Of an archived hour in which a fee changed the payments before and after are told apart, as long as they are known.
ALTER TABLE payment_archived_hour ADD COLUMN fee_since timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE payment_archived_hour DROP CONSTRAINT payment_archived_hour_pkey;
ALTER TABLE payment_archived_hour ADD CONSTRAINT payment_archived_hour_pkey PRIMARY KEY (starts_at, processor, fee_since);
COMMENT ON TABLE payment_archived_hour IS 'Totals of the archived payments by hour of requested_at, and by fee in an hour in which that changed; nothing finer is known of them here';
COMMENT ON COLUMN payment_archived_hour.fee_since IS 'The payments since the fee changed within the hour; -infinity: those before it changed, all where it did not; infinity: it changed, and they were not told apart';
UPDATE payment_archived_hour h SET fee_since = 'infinity' WHERE EXISTS (
    SELECT FROM processor_fee f
    WHERE f.processor = h.processor AND f.valid_from > h.starts_at AND f.valid_from < h.starts_at + interval '1 hour'
);

CREATE FUNCTION audit.refuse_upside_down(first timestamptz, last timestamptz) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF first > last THEN
        RAISE EXCEPTION 'the range is upside down: it begins at % and ends at %', first, last
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;
COMMENT ON FUNCTION audit.refuse_upside_down IS 'Raises an error where first is after last';

CREATE FUNCTION audit.refuse_null(argument text, is_null boolean) RETURNS void LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF is_null THEN
        RAISE EXCEPTION '% must not be null', argument USING ERRCODE = 'null_value_not_allowed';
    END IF;
END $$;
COMMENT ON FUNCTION audit.refuse_null IS 'Raises an error that names the argument where is_null';

-- a0 to z0 is the range, a1 to z1 the whole seconds in it, and so on; where there is none, both are the end of the
-- range, and the finer piece before them covers all of it.
CREATE FUNCTION audit.pieces(from_time timestamptz, to_time timestamptz)
RETURNS TABLE (unit text, starts_at timestamptz, ends_at timestamptz)
LANGUAGE sql STABLE ROWS 7
BEGIN ATOMIC
    SELECT v.unit, v.starts_at, v.ends_at
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
    CROSS JOIN LATERAL (
        VALUES ('hour', a3, z3), ('minute', a2, a3), ('minute', z3, z2), ('second', a1, a2), ('second', z2, z1),
            ('payment', a0, a1), ('payment', z1, z0)
    ) AS v (unit, starts_at, ends_at)
    WHERE v.starts_at < v.ends_at;
END;
COMMENT ON FUNCTION audit.pieces IS 'The range from from_time to to_time, both included, null for an open end, cut into whole hours, minutes and seconds (UTC), and what is left at its edges, of which single payments are counted';

-- Number and sum in the ledger, without what is archived. In PL/pgSQL, which keeps the plan: to make it takes longer
-- than to execute it, and the page asks once a second.
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
        JOIN payment_rollup r ON r.unit = p.unit AND r.starts_at >= p.starts_at AND r.starts_at < p.ends_at
        WHERE p.unit <> 'payment'
        UNION ALL
        SELECT b.processor, 1, b.amount
        FROM audit.pieces(from_time, to_time) AS p
        JOIN payment_processed b ON b.requested_at >= p.starts_at AND b.requested_at < p.ends_at
        WHERE p.unit = 'payment'
    ) AS part
    GROUP BY part.processor HAVING sum(part.payments) <> 0;
END $$;
COMMENT ON FUNCTION audit.recorded IS 'Payments and their sum by processor, with requested_at from from_time to to_time, both included, null for an open end; without what is archived';

-- Of what is archived, whole hours; an error where the range has a part of one.
CREATE FUNCTION audit.archived(from_time timestamptz, to_time timestamptz)
RETURNS TABLE (starts_at timestamptz, processor text, fee_since timestamptz, payments bigint, amount numeric)
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
    JOIN payment_archived_hour h ON h.starts_at > p.starts_at - interval '1 hour' AND h.starts_at < p.ends_at
    WHERE p.unit <> 'hour';
END $$;
COMMENT ON FUNCTION audit.archived IS 'Archived payments and their sum by hour and processor, with requested_at from from_time to to_time, both included, null for an open end. An error where the range begins or ends inside of an hour that is archived';

CREATE OR REPLACE FUNCTION audit.summary(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (processor text, total_requests bigint, total_amount numeric)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    PERFORM audit.refuse_upside_down(from_time, to_time);
    RETURN QUERY
    SELECT part.processor, sum(part.payments)::bigint, sum(part.amount)
    FROM (
        SELECT r.processor, r.payments, r.amount FROM audit.recorded(from_time, to_time) AS r
        UNION ALL SELECT a.processor, a.payments, a.amount FROM audit.archived(from_time, to_time) AS a
        UNION ALL SELECT f.processor, 0, 0 FROM processor_fee f
    ) AS part
    GROUP BY part.processor ORDER BY part.processor;
END $$;
COMMENT ON FUNCTION audit.summary IS 'What GET /payments-summary says: payments (total_requests) and their sum (total_amount) by processor, with requested_at from from_time to to_time, both included, null for an open end. Processors that were ever configured are there with 0. An error where the range begins or ends inside of an hour that is archived, or is upside down';

CREATE OR REPLACE FUNCTION audit.totals(unit text, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (starts_at timestamptz, processor text, payments bigint, amount numeric)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := coalesce(from_time, '-infinity');
    ends   CONSTANT timestamptz := coalesce(to_time, 'infinity');
    -- Finer than what is left of archived payments.
    fine   CONSTANT boolean := coalesce(totals.unit IN ('second', 'minute'), false);
BEGIN
    IF totals.unit IS NULL OR totals.unit NOT IN ('second', 'minute', 'hour', 'day', 'week', 'month') THEN
        RAISE EXCEPTION 'there is no unit %; the units are second, minute, hour, day, week and month',
            coalesce(quote_literal(totals.unit), 'null') USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM audit.refuse_upside_down(begins, ends);
    RETURN QUERY
    SELECT date_trunc(totals.unit, r.starts_at, 'UTC'), r.processor, sum(r.requests)::bigint, sum(r.amount)
    FROM (
        SELECT p.starts_at, p.processor, p.requests, p.amount
        FROM payment_rollup p
        WHERE p.unit = CASE WHEN fine THEN totals.unit ELSE 'hour' END
            AND p.starts_at >= date_trunc(totals.unit, begins, 'UTC') AND p.starts_at < ends
        UNION ALL
        SELECT h.starts_at, CASE WHEN fine THEN audit.refuse_part_of_hour(h.starts_at) ELSE h.processor END,
            h.requests, h.amount
        FROM payment_archived_hour h
        WHERE h.starts_at > date_trunc(totals.unit, begins, 'UTC')
                - CASE WHEN fine THEN interval '1 hour' ELSE interval '1 microsecond' END
            AND h.starts_at < ends
    ) AS r
    GROUP BY 1, 2 HAVING sum(r.requests) <> 0
    ORDER BY 1, 2;
END $$;
COMMENT ON FUNCTION audit.totals IS 'Number and sum of the payments by processor and interval of requested_at, in UTC. unit: second, minute, hour, day, week or month; from_time: the first interval is the one that it is in; to_time: intervals begin before it; null for an open end. Intervals without payments are left out. An error for any other unit, for a range that is upside down, and for seconds and minutes of hours that are archived';

CREATE FUNCTION audit.fee_at(name text, moment timestamptz) RETURNS numeric LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT f.fee FROM processor_fee f WHERE f.processor = name AND f.valid_from <= moment
    ORDER BY f.valid_from DESC LIMIT 1;
END;
COMMENT ON FUNCTION audit.fee_at IS 'The share that the processor with that name keeps of a payment with requested_at = moment; null where nobody knows it';

-- A term is a time in which no fee of any processor changed.
CREATE FUNCTION audit.fees(from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS TABLE (processor text, since timestamptz, fee_share numeric, payments bigint, amount numeric, fee numeric, net numeric)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := coalesce(from_time, '-infinity');
    ends   CONSTANT timestamptz := coalesce(to_time, 'infinity');
BEGIN
    PERFORM audit.refuse_upside_down(begins, ends);
    RETURN QUERY
    WITH term AS MATERIALIZED (
        SELECT t.starts_at, lead(t.starts_at - interval '1 microsecond', 1, ends) OVER (ORDER BY t.starts_at) AS last
        FROM (
            SELECT begins AS starts_at
            UNION SELECT f.valid_from FROM processor_fee f WHERE f.valid_from > begins AND f.valid_from <= ends
        ) AS t
    ), part AS (
        SELECT r.processor, t.starts_at AS since, r.payments, r.amount
        FROM term t CROSS JOIN LATERAL audit.recorded(t.starts_at, t.last) AS r
        UNION ALL
        -- Null, not 0: it is not known.
        SELECT a.processor, CASE WHEN a.fee_since < 'infinity' THEN greatest(a.starts_at, a.fee_since) END,
            a.payments, a.amount
        FROM audit.archived(from_time, to_time) AS a
    ), total AS (
        SELECT p.processor, (SELECT max(t.starts_at) FROM term t WHERE t.starts_at <= p.since) AS since,
            sum(p.payments)::bigint AS payments, sum(p.amount) AS amount
        FROM part p GROUP BY 1, 2
    )
    SELECT t.processor, t.since, s.share, t.payments, t.amount, t.amount * s.share, t.amount - t.amount * s.share
    FROM total t CROSS JOIN LATERAL (SELECT audit.fee_at(t.processor, t.since) AS share) AS s
    WHERE t.payments <> 0
    ORDER BY t.processor, t.since;
END $$;
COMMENT ON FUNCTION audit.fees IS 'What each processor kept of the payments with requested_at from from_time to to_time, both included, null for an open end: a row for each time, since when no fee of any processor changed. fee_share, fee and net are null where nobody knows the fee. The page, payment-proxy summary and audit.fees_by_day say what this says. An error where the range begins or ends inside of an hour that is archived, or is upside down';

CREATE OR REPLACE FUNCTION audit.fees_by_day(first_day date, last_day date)
RETURNS TABLE (day date, processor text, fee_share numeric, payments bigint, amount numeric, fee numeric, net numeric)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    begins CONSTANT timestamptz := coalesce(first_day, '-infinity')::timestamp AT TIME ZONE 'UTC';
    ends   CONSTANT timestamptz := coalesce(last_day, 'infinity')::timestamp AT TIME ZONE 'UTC' + interval '1 day';
BEGIN
    PERFORM audit.refuse_upside_down(begins, ends - interval '1 day');
    RETURN QUERY
    SELECT d.day, f.processor, f.fee_share, sum(f.payments)::bigint, sum(f.amount), sum(f.fee), sum(f.net)
    FROM (
        SELECT DISTINCT (h.starts_at AT TIME ZONE 'UTC')::date AS day FROM (
            SELECT r.starts_at FROM payment_rollup r WHERE r.unit = 'hour' AND r.requests <> 0
            UNION ALL SELECT a.starts_at FROM payment_archived_hour a
        ) AS h WHERE h.starts_at >= begins AND h.starts_at < ends
    ) AS d
    CROSS JOIN LATERAL audit.fees(
        d.day::timestamp AT TIME ZONE 'UTC', (d.day + 1)::timestamp AT TIME ZONE 'UTC' - interval '1 microsecond'
    ) AS f
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, min(f.since);
END $$;
COMMENT ON FUNCTION audit.fees_by_day IS 'What each processor kept of the payments of each day (UTC, by requested_at) from first_day to last_day, both included, null for an open end. A day on which a fee changed has a row for each fee; fee is null where nobody knows it. An error where last_day is before first_day';

CREATE OR REPLACE FUNCTION audit.open_payments(older_than interval DEFAULT '1 minute')
RETURNS TABLE (
    correlation_id uuid, amount numeric, accepted_at timestamptz, age interval, state text, claims integer,
    processor text, requested_at timestamptz, doubt_until timestamptz, last_outcome text, reason text
)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
    PERFORM audit.refuse_null('older_than', older_than IS NULL);
    RETURN QUERY
    SELECT q.correlation_id, q.amount::numeric, q.accepted_at, now() - q.accepted_at,
        CASE WHEN q.processor IS NULL THEN 'queued' WHEN q.lease_until > now() THEN 'in flight' ELSE 'in doubt' END,
        q.attempt, q.processor, q.requested_at, q.doubt_until, a.outcome, a.reason
    FROM payment_queue q
    LEFT JOIN LATERAL (
        SELECT t.outcome, t.reason FROM payment_attempt t
        WHERE t.correlation_id = q.correlation_id ORDER BY t.last_ended_at DESC LIMIT 1
    ) AS a ON true
    WHERE now() - q.accepted_at > older_than
    ORDER BY q.accepted_at;
END $$;
COMMENT ON FUNCTION audit.open_payments IS 'Payments that were accepted longer than older_than ago and are not settled, the oldest first, with the outcome and the reason of their last attempt. doubt_until: from then on a 404 of the processor proves that it did not charge. An error where older_than is null';
