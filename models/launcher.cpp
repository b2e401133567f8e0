// Runs compiled networks while other Python threads run: torch's own binding holds Python's lock for a whole batch,
// whereas it lets go of it to call methods that are registered with it, as these are.

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/custom_class.h>

namespace {

class Package : public torch::CustomClassHolder {
 public:
  explicit Package(const std::string& path) : loader_(path) {}

  std::vector<at::Tensor> run(std::vector<at::Tensor> inputs) { return loader_.run(inputs); }

  // How inputs and outputs are nested, in torch's words.
  std::vector<std::string> callSpec() { return loader_.get_call_spec(); }

 private:
  torch::inductor::AOTIModelPackageLoader loader_;
};

}  // namespace

TORCH_LIBRARY(visionpipe, library) {
  library.class_<Package>("Package")
      .def(torch::init<std::string>())
      .def("run", &Package::run)
      .def("call_spec", &Package::callSpec);
}
