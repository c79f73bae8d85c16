"""``graphllm cache``: the plans and native code that running checkpoints has left behind."""

from __future__ import annotations

import argparse


def run(a: argparse.Namespace) -> int:
    from graphllm.compiler.cache import cache_folder, cached_plans
    from graphllm.compiler.kept import built_libraries, other_files
    from graphllm.compiler.nvrtc.kept import kept_cubins
    from graphllm.errors import GraphLLMError, PlanError
    from graphllm.plan.place import shown, size_text
    from graphllm.plan.plan_file import PlanFile

    plans = cached_plans()
    total = 0
    for path in plans:
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # a link to nothing, or another process was faster
        total += size
        if a.clear:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise GraphLLMError(f"{path}: cannot be deleted; {error.strerror}") from None
            continue
        try:
            with PlanFile.open(path, verify="none") as plan:
                files = plan.documents.get("provenance", {}).get("files", [])
                made_of = ", ".join(shown(str(f["name"])) for f in files[:2]) + (" …" if len(files) > 2 else "")
        except (PlanError, TypeError, KeyError):
            made_of = "damaged; it will be made again"
        print(f"{path.name}  {size_text(size):>8}  {made_of}")
    libraries, cubins = built_libraries(), kept_cubins()
    for file in (*libraries, *other_files(), *cubins):
        try:
            total += file.stat().st_size
            if a.clear:
                file.unlink()
        except OSError as error:
            raise GraphLLMError(f"{file}: cannot be deleted; {error.strerror}") from None
    count = "1 plan" if len(plans) == 1 else f"{len(plans)} plans"
    native = f", native code of {len(libraries)}" if libraries else ""
    kernels = sum(file.suffix == ".cubin" for file in cubins)
    native += f", {kernels} kernels for GPUs" if kernels else ""
    print(f"{cache_folder()}: {count}{native}, {size_text(total)}{' deleted' if a.clear else ''}")
    return 0
