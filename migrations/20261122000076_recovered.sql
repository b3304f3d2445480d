-- One instance's probe is enough for all of them to use a processor again.
ALTER TABLE processor_health ADD COLUMN recovered_at timestamptz;
COMMENT ON COLUMN processor_health.recovered_at IS 'When an instance that had given it up last charged a payment there; the others then use it again';
