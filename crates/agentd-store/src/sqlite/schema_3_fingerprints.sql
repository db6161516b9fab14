-- What a node's definition comes to, in its author's terms: tells a later run whether its result still stands.
ALTER TABLE node_specs ADD COLUMN fingerprint TEXT;
