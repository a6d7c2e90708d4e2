#!/usr/bin/env bash
# Makes a PyG release thread-safe: scripts/apply.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/kit.sh" apply "$@"
