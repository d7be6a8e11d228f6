#!/bin/bash
# Write go.mod and go.sum of each program into locks/cluster. Run after a change of a version below.
# The module of Kubernetes needs changes: its go.mod requires v0.0.0 of its own modules, and its
# replacements are not inherited.
set -euo pipefail
KUBERNETES=1.34.4 ETCD=v3.6.16 COREDNS=v1.12.4
ROOT=$(cd "$(dirname "$0")/../../.." && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export GOMODCACHE="$WORK/modules" GOCACHE="$WORK/build" GOFLAGS=-modcacherw

lowest_go() { go mod edit -json "$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["Go"])'; }

begin() { # PROGRAM MODULE VERSION
    FAMILY=$1 REQUIRED="$2@$3"
    cp -r "$ROOT/infra/machine/cluster/go/$FAMILY" "$WORK/$FAMILY"
    cd "$WORK/$FAMILY"
    go mod init "thumbwheel/cluster/$FAMILY"
    UPSTREAM=$(go mod download -json "$REQUIRED" | python3 -c 'import json, sys; print(json.load(sys.stdin)["GoMod"])')
}

finish() {
    go mod edit -go="$(lowest_go "$UPSTREAM")" -require="$REQUIRED"
    go mod tidy
    mkdir -p "$ROOT/locks/cluster/$FAMILY"
    cp go.mod go.sum "$ROOT/locks/cluster/$FAMILY/"
}

begin kubernetes k8s.io/kubernetes "v$KUBERNETES"
go mod edit -json "$UPSTREAM" | python3 -c '
import json, sys
for required in json.load(sys.stdin)["Require"]:
    if required["Version"] == "v0.0.0":
        print(required["Path"])' | while read -r part; do go mod edit -replace="$part=$part@v0.${KUBERNETES#1.}"; done
go mod edit -godebug=default=go1.24 # set by upstream; settings of a dependency are not inherited
finish
begin etcd go.etcd.io/etcd/server/v3 "$ETCD"
finish
begin coredns github.com/coredns/coredns "$COREDNS"
finish
