// What the window knows of the training under way, or of the last one.
#pragma once

#include <optional>
#include <vector>

#include "engine/training/training_session.h"

namespace mb::ui {

/// In the order it happened.
struct TrainingHistory {
  std::optional<TrainingStarted> started;
  std::optional<TrainingFitted> fitted;
  std::vector<TrainingStepped> steps;
  std::vector<TrainingValidated> validations;
  std::vector<TrainingSampled> samples;

  void add(const TrainingEvent& event) {
    std::visit([this](const auto& happened) { take(happened); }, event);
  }
  /// Steps in all; 0 while nobody knows.
  std::uint64_t stepsInAll() const {
    if (fitted) return fitted->steps;
    return started ? started->steps : 0;
  }

 private:
  void take(const TrainingStarted& event) {
    *this = {};
    started = event;
  }
  void take(const TrainingFitted& event) { fitted = event; }
  void take(const TrainingStepped& event) { steps.push_back(event); }
  void take(const TrainingExamined&) {}  // the window trains on texts only
  void take(const TrainingValidated& event) { validations.push_back(event); }
  void take(const TrainingSampled& event) { samples.push_back(event); }
};

}  // namespace mb::ui
