// Loads a scripted model, and lets eight threads share it, as a server in C++ does.
//
//     serve MODEL.pt REQUESTS.pt CALLS
//
// Prints how the calls ended: right, crashed, silently wrong. Where threads write one attribute
// of the model at once, its reference count breaks: then the process dies.
#include <ATen/Parallel.h>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/script.h>

#include <atomic>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kThreads = 8;

// The tensors of a result: the features of the nodes, and the attention weights of the edges.
void Flatten(const c10::IValue& value, std::vector<torch::Tensor>* tensors) {
  if (value.isTensor()) {
    tensors->push_back(value.toTensor());
    return;
  }
  for (const auto& element : value.toTupleRef().elements()) {
    Flatten(element, tensors);
  }
}

std::vector<torch::Tensor> Answer(torch::jit::Module model, const torch::Tensor& x,
                                  const torch::Tensor& edge_index) {
  c10::InferenceMode guard;
  std::vector<torch::Tensor> tensors;
  Flatten(model.forward({x, edge_index}), &tensors);
  return tensors;
}

bool Equal(const std::vector<torch::Tensor>& a, const std::vector<torch::Tensor>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (!torch::equal(a[i], b[i])) return false;
  }
  return a.size() == b.size();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "Usage: serve MODEL.pt REQUESTS.pt CALLS\n";
    return 2;
  }
  at::set_num_threads(1);
  // What is fused may round in another way than in an earlier call.
  torch::jit::setTensorExprFuserEnabled(false);
  auto model = torch::jit::load(argv[1]);
  auto requests = torch::jit::load(argv[2]);
  const auto xs = requests.attr("x").toTensorVector();
  const auto edges = requests.attr("edge_index").toTensorVector();
  const size_t calls = std::stoul(argv[3]) / kThreads;

  std::vector<std::vector<torch::Tensor>> expected(xs.size());
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < xs.size(); ++i) expected[i] = Answer(model, xs[i], edges[i]);
  }

  std::atomic<int> right{0}, crashed{0}, wrong{0}, ready{0};
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (++ready; ready < static_cast<int>(kThreads);) std::this_thread::yield();
      for (size_t call = 0; call < calls; ++call) {
        const size_t i = (thread + call) % xs.size();
        try {
          ++(Equal(Answer(model, xs[i], edges[i]), expected[i]) ? right : wrong);
        } catch (const std::exception&) {
          ++crashed;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  std::cout << right << " " << crashed << " " << wrong << std::endl;
}
