# shellcheck shell=bash
# What the code needs: itself, its packages, secrets. Sourced by environment.sh.

fetch_secrets() {
  local pair
  for pair in "${SECRETS[@]}"; do
    (
      umask 077
      aws ssm get-parameter --with-decryption --name "${pair#*=}" --query Parameter.Value --output text \
        >"$ROOT/auth/${pair%%=*}"
    ) || fail "the secret ${pair#*=} cannot be read"
    chown "$OWNER" "$ROOT/auth/${pair%%=*}"
  done
}

# The revision of the settings, in the folder given; a clone that was cut off leaves nothing there.
fetch_code() {
  if [[ ! -d $1/.git ]]; then
    rm -rf "$1.cloning"
    as_owner git clone -q "$REPOSITORY" "$1.cloning" || fail "the repository cannot be cloned"
    mv "$1.cloning" "$1"
  fi
  as_owner git -C "$1" fetch -q origin "$REVISION" || fail "the revision $REVISION cannot be fetched"
  as_owner git -C "$1" checkout -q --detach FETCH_HEAD || fail "the revision $REVISION cannot be checked out"
}

# The environment for the code in a folder, $1; it is made at $2 unless the image has it. Its path is printed.
packages() {
  local lock=$1/${LOCK:-requirements-gpu.lock} digest venv
  digest=$(sha256sum <"$lock" | cut -d' ' -f1)
  for venv in "$OPT/venv" "$2"; do
    if [[ -e $venv/.lock && $(<"$venv/.lock") == "$digest" ]]; then
      echo "$venv"
      return
    fi
  done
  say "installing the packages of $lock"
  python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -q python3-venv >&2
  rm -rf "$2"
  as_owner python3 -m venv "$2" >&2
  as_owner "$2/bin/python" -m pip install -q --require-hashes -r "$lock" >&2 || fail "the packages cannot be installed"
  as_owner tee "$2/.lock" <<<"$digest" >/dev/null
  echo "$2"
}
