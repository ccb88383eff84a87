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

# The commit of the settings, in the folder given; a clone that was cut off leaves nothing there. Not every server gives
# a commit by its name: then all branches and tags are fetched.
fetch_code() {
  if [[ ! -d $1/.git ]]; then
    rm -rf "$1.cloning"
    as_owner git clone -q "$REPOSITORY" "$1.cloning" || fail "the repository cannot be cloned"
    mv "$1.cloning" "$1"
  fi
  [[ $REVISION =~ ^[0-9a-f]{40}$ ]] || fail "the revision $REVISION is no commit: run setup"
  has_commit "$1" || as_owner git -C "$1" fetch -q "$REPOSITORY" "$REVISION" ||
    as_owner git -C "$1" fetch -q --tags "$REPOSITORY" '+refs/heads/*:refs/remotes/origin/*' || true
  has_commit "$1" || fail "the commit $REVISION cannot be fetched"
  [[ -z $(as_owner git -C "$1" status --porcelain --untracked-files=no) ]] ||
    fail "the code was changed by hand in $1: take the changes away"
  as_owner git -C "$1" checkout -q --detach "$REVISION" || fail "the commit $REVISION cannot be checked out"
}

has_commit() { as_owner git -C "$1" cat-file -e "$REVISION^{commit}" 2>/dev/null; }

# Nobody but root can have changed it since root took it over.
is_roots() {
  local path
  for path in "$1" "$1/.lock"; do
    [[ ! -L $path && $(stat -c '%u %A' "$path" 2>/dev/null) =~ ^0\ .{5}-..- ]] || return 1
  done
}

# The environment for the code in a folder, $1; it is made at $2 unless the image has it. Its path is printed. It is
# root's in the end: what ran as the owner on an earlier day cannot have left anything in it.
packages() {
  local lock=$1/${LOCK:-requirements-gpu.lock} digest venv
  digest=$(sha256sum <"$lock" | cut -d' ' -f1)
  for venv in "$OPT/venv" "$2"; do
    if is_roots "$venv" && [[ $(<"$venv/.lock") == "$digest" ]]; then
      echo "$venv"
      return
    fi
  done
  say "installing the packages of $lock"
  python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -q python3-venv >&2
  rm -rf "$2"
  as_owner python3 -m venv "$2" >&2
  # The lock names every package with its hashes, and nothing else is fetched. One has no wheel: it is built with the
  # lock's own setuptools, where pip would fetch whichever is newest.
  local pip=("$2/bin/python" -m pip install -q --require-hashes --no-deps --only-binary :all:)
  sed -n '/^\(setuptools\|wheel\)==/,/[^\\]$/p' "$lock" | as_owner tee "$2/builders.lock" >/dev/null
  as_owner "${pip[@]}" -r "$2/builders.lock" >&2 || fail "setuptools cannot be installed"
  pip+=(--no-build-isolation --no-binary antlr4-python3-runtime)
  as_owner "${pip[@]}" -r "$lock" >&2 || fail "the packages cannot be installed"
  chown -R root "$2"
  chmod -R go-w "$2"
  rm -rf "$2/.lock"
  echo "$digest" >"$2/.lock"
  echo "$2"
}
