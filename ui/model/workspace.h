// Everything the window shows, without the window.
#pragma once

#include "ui/bridge/engine_link.h"
#include "ui/model/byte_axis.h"
#include "ui/model/document.h"
#include "ui/model/linked_position.h"
#include "ui/model/trace_store.h"

namespace mb::ui {

/// Outlives the window and its panels, which hold references into it.
struct Workspace {
  Document document;
  LinkedPosition linked;
  ByteAxis axis;
  TraceStore traces;
  EngineLink link{document, traces};
};

}  // namespace mb::ui
