// Readings taken at scrape time: the scheduler and its memory, kept documents, and the process.
#pragma once

#include <vector>

#include "engine/document_store.h"
#include "engine/engine.h"
#include "prometheus/metric_family.h"

namespace longdoc::service {

// Series of one reading of the engine; all zero for a default EngineStats.
std::vector<prometheus::MetricFamily> EngineFamilies(const EngineStats& stats);

// Likewise of the kept documents.
std::vector<prometheus::MetricFamily> DocumentFamilies(const DocumentStoreStats& stats);

// The usual process_* series and the peak of resident memory, from /proc. A reading that the system
// does not give is exported as 0, so that the set of series never changes.
std::vector<prometheus::MetricFamily> ProcessFamilies();

}  // namespace longdoc::service
