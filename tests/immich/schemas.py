"""What makes the schema of 3.2 that of another version of Immich, as facts of the public schemas and of merge reports.

3.3 was not seen on a real server.
"""

from __future__ import annotations

from typing import Final, Literal

Version = Literal["3.1", "3.2", "3.3"]

_TO_3_1: Final = """
DROP TABLE person CASCADE;
DROP TABLE person_audit, person_group_audit;
ALTER TABLE asset_face DROP COLUMN "personGroupId";
DROP TABLE person_group;
ALTER TABLE "user" DROP COLUMN "clusterGroupId";
DROP TABLE cluster_group;
CREATE TABLE person (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "ownerId" uuid NOT NULL REFERENCES "user",
  name text NOT NULL DEFAULT '',
  "createdAt" timestamptz NOT NULL DEFAULT now(), "updatedAt" timestamptz NOT NULL DEFAULT now(), "birthDate" date,
  "isHidden" boolean NOT NULL DEFAULT false, "isFavorite" boolean NOT NULL DEFAULT false, color text,
  "faceAssetId" uuid, "updateId" uuid NOT NULL DEFAULT immich_uuid_v7()
);
CREATE TABLE person_audit (
  id uuid PRIMARY KEY DEFAULT immich_uuid_v7(), "personId" uuid NOT NULL, "ownerId" uuid NOT NULL,
  "deletedAt" timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE asset_face ADD COLUMN "personId" uuid REFERENCES person ON DELETE SET NULL;
"""
_TO_3_3: Final = """
ALTER TABLE "user" ALTER COLUMN "oauthId" DROP NOT NULL, ALTER COLUMN "oauthId" SET DEFAULT NULL;
UPDATE "user" SET "oauthId" = NULL WHERE "oauthId" = '';
CREATE TYPE person_user_role_enum AS ENUM ('read', 'write', 'admin');
CREATE TABLE person_user (
  "personGroupId" uuid NOT NULL REFERENCES person_group ON UPDATE CASCADE ON DELETE CASCADE,
  "userId" uuid NOT NULL REFERENCES "user" ON UPDATE CASCADE ON DELETE CASCADE,
  role person_user_role_enum NOT NULL,
  PRIMARY KEY ("personGroupId", "userId")
);
"""

CHANGES: Final[dict[Version, str]] = {"3.1": _TO_3_1, "3.2": "", "3.3": _TO_3_3}
