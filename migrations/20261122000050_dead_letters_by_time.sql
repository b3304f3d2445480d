-- The newest dead letters are listed and counted however many there are.
CREATE INDEX payment_dead_letter_died_at_idx ON payment_dead_letter (died_at);
