-- Where a check takes its listing from, when it is not the store itself.

ALTER TABLE check_runs ADD COLUMN inventory text COLLATE "C"; -- the address of a manifest of S3 Inventory
