-- What must hold for a payment in the queue, said in half as many words. PostgreSQL reads the text of a CHECK again for
-- each statement that writes to its table, and most payments come in a statement of their own.
ALTER TABLE payment_queue
    DROP CONSTRAINT payment_queue_amount_is_positive,
    DROP CONSTRAINT payment_queue_evidence_is_whole,
    -- The sign of NaN is NaN.
    ADD CONSTRAINT payment_queue_amount_is_positive CHECK (sign(amount) = 1),
    -- All three or none.
    ADD CONSTRAINT payment_queue_evidence_is_whole CHECK (num_nonnulls(processor, requested_at, doubt_until) % 3 = 0);
